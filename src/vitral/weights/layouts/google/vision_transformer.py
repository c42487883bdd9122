""".npz files of google-research/vision_transformer, with old and newer names.

The paper's files and those of arXiv 2106.10270 ("How to train your ViT"), with hybrids.
Their code computes GELU by tanh and resizes positions corner to corner. A ResNet's
stages and units are counted from 1; old norms have shape (1, 1, 1, channels).
"""

from dataclasses import replace
from typing import Any

from vitral.data import Preprocess
from vitral.layers.bottleneck import total_stride
from vitral.models import HybridConfig, ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits, resnet_shapes
from vitral.weights.layouts.google import flax_names
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.resnet_shapes import Numerics
from vitral.weights.mapping import TensorMapping, convolution, reshape

OPTIMIZER = "opt/target/"
"""Prefix of every name in files that were saved with their optimizer."""
ROOT = "conv_root/kernel"
NUMERICS = Numerics(group_norm_eps=1e-6, std_eps=1e-5, std_eps_at="deviation")


def detect(opened: LayoutInput) -> bool:
    """Return whether the stem and the first block have this project's names."""
    return _style(opened) is not None


def read(opened: LayoutInput) -> WeightsSource:
    style = _style(opened)
    assert style is not None
    facts = flax_names.read_vit_fields(opened, style)
    config: ViTConfig
    if f"{style.prefix}{ROOT}" in opened.file:
        config = HybridConfig(**_hybrid_fields(opened, style.prefix, facts))
    else:
        config = ViTConfig(**facts)
    preprocess = Preprocess(image_size=config.image_hw)
    return opened.source(LAYOUT.title, config, _mappings(config, style), preprocess)


def mappings(config: ViTConfig) -> list[TensorMapping]:
    return _mappings(config, flax_names.OLD)


def unsupported_reason(config: ModelConfig) -> str:
    is_hybrid = isinstance(config, HybridConfig)
    reasons: tuple[limits.Limit, ...] = (
        (
            "its ViT and its hybrids are all that it has",
            lambda it: type(it) not in (ViTConfig, HybridConfig),
        ),
        *(resnet_shapes.structure_limits("same") if is_hybrid else ()),
        ("it learns one position a patch", lambda it: it.position != "learned_1d"),
        ("it has no attention pooling", lambda it: it.global_pool == "map"),
        *flax_names.LIMITS,
    )
    return limits.first_reason(reasons, config)


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    notes = flax_names.numerics(spec.config)
    if isinstance(spec.config, HybridConfig):
        notes += resnet_shapes.differences(spec.config, NUMERICS, "the official code")
    return LayoutOutput(notes=notes)


def _mappings(config: ViTConfig, style: flax_names.Style) -> list[TensorMapping]:
    rules = flax_names.vit_mappings(config, style)
    if isinstance(config, HybridConfig):
        rules += _resnet_mappings(config, style.prefix)
    return rules


def _hybrid_fields(
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


def _resnet_mappings(config: HybridConfig, prefix: str) -> list[TensorMapping]:
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


def _style(opened: LayoutInput) -> flax_names.Style | None:
    for prefix in ("", OPTIMIZER):
        for style in (flax_names.OLD, flax_names.NEWER):
            first = f"{prefix}Transformer/encoderblock_0/{style.attention}/query/kernel"
            if first in opened.file and f"{prefix}{style.pos_embed}" in opened.file:
                return replace(style, prefix=prefix)
    return None


LAYOUT = Layout(
    name="google",
    title="vision_transformer",
    container="npz",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
