"""Names and shapes that Flax gives to the ResNet of a hybrid.

Only google-research/vision_transformer publishes such files. Stages and units are
counted from 1, and norms of the oldest files have shape (1, 1, 1, channels).
"""

from typing import Any

from vitral.layers.bottleneck import total_stride
from vitral.models import HybridConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts import resnet_shapes
from vitral.weights.layouts.resnet_shapes import Numerics
from vitral.weights.mapping import TensorMapping, convolution, reshape

ROOT = "conv_root/kernel"
NUMERICS = Numerics(group_norm_eps=1e-6, std_eps=1e-5, std_eps_at="deviation")


def read_fields(
    opened: LayoutInput, prefix: str, encoder: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of HybridConfig.

    Args:
        encoder: fields inferred from the encoder's tensors, patches counted in cells of
            the ResNet's map.
    """
    root = f"{prefix}{ROOT}"
    _, _, chans, width = opened.shape(root, 4)
    pattern = rf"{prefix}block(\d+)/unit(\d+)/"
    units = resnet_shapes.count_units(opened, pattern, 1)
    stride = total_stride(units)
    pixels = {
        name: tuple(side * stride for side in encoder[name])
        for name in ("patch_size", "image_size")
    }
    return {
        **encoder,
        **pixels,
        "in_chans": chans,
        "units": units,
        **resnet_shapes.read_width_fields(opened, root, width),
    }


def mappings(config: HybridConfig, prefix: str) -> list[TensorMapping]:
    """Return the mapping of every tensor of the ResNet."""
    backbone = "patch_embed.backbone"
    stem = f"{backbone}.stem" if config.units else backbone
    rules = [
        convolution(f"{stem}.conv.weight", f"{prefix}{ROOT}"),
        *_norm(f"{stem}.norm", f"{prefix}gn_root", config.width),
    ]
    for stage, count in enumerate(config.units):
        inner = config.width * 2**stage
        for unit in range(count):
            ours = f"{backbone}.stages.{stage}.blocks.{unit}"
            theirs = f"{prefix}block{stage + 1}/unit{unit + 1}"
            for part, width in enumerate((inner, inner, 4 * inner), start=1):
                weight = f"{ours}.conv{part}.weight"
                rules.append(convolution(weight, f"{theirs}/conv{part}/kernel"))
                rules += _norm(f"{ours}.norm{part}", f"{theirs}/gn{part}", width)
        first = f"{backbone}.stages.{stage}.blocks.0.downsample"
        theirs = f"{prefix}block{stage + 1}/unit1"
        rules.append(convolution(f"{first}.conv.weight", f"{theirs}/conv_proj/kernel"))
        rules += _norm(f"{first}.norm", f"{theirs}/gn_proj", 4 * inner)
    return rules


def _norm(ours: str, theirs: str, width: int) -> list[TensorMapping]:
    now, old = (width,), (1, 1, 1, width)
    return [
        reshape(f"{ours}.weight", f"{theirs}/scale", now, now, old),
        reshape(f"{ours}.bias", f"{theirs}/bias", now, now, old),
    ]
