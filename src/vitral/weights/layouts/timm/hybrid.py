"""timm's hybrids: a ResNet under `patch_embed.backbone`, before a plain encoder."""

from typing import Any

from vitral.errors import WeightsError
from vitral.layers.bottleneck import total_stride
from vitral.models import HybridConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts import resnet_shapes
from vitral.weights.layouts.timm.resnet import NUMERICS

BACKBONE = "patch_embed.backbone."
ARCHITECTURES = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
"""Names by units. The encoder's sizes are arguments, the ResNet's are not."""
WIDTH = 64
"""Channels of the stem in all of them."""


def detect(opened: LayoutInput) -> bool:
    """Return whether there is a backbone, of any type, before the patches."""
    return any(name.startswith(BACKBONE) for name in opened.file.names())


def stride(opened: LayoutInput) -> int:
    """Return the pixels between two cells of the backbone's map."""
    return total_stride(_units(opened))


def in_chans(opened: LayoutInput) -> int:
    """Return the channels of an image."""
    return opened.shape(_stem(_units(opened)), 4)[1]


def read_config(opened: LayoutInput, encoder: ViTConfig) -> HybridConfig:
    """Infer the settings of the hybrid.

    Args:
        encoder: settings of the encoder, its patches in pixels.
    """
    units = _units(opened)
    stem = _stem(units)
    width = opened.shape(stem, 4)[0]
    return HybridConfig(
        **vars(encoder),
        units=units,
        group_norm_eps=NUMERICS.group_norm_eps,
        std_eps=NUMERICS.std_eps,
        std_eps_at="variance",
        **resnet_shapes.read_width_fields(opened, stem, width),
    )


def find_timm_model(config: HybridConfig) -> tuple[str, dict[str, Any]] | None:
    """Return a function of timm and its patch argument, or None."""
    name = ARCHITECTURES.get(config.units)
    if name is None or config.width != WIDTH:
        return None
    # timm counts the sides of a patch in cells of the map.
    return name, {"patch_size": list(config.feature_patch)}


def first_conv(config: HybridConfig) -> str:
    """Return the name of the convolution on the image."""
    return _stem(config.units).removesuffix(".weight")


def _stem(units: tuple[int, ...]) -> str:
    return f"{BACKBONE}stem.conv.weight" if units else f"{BACKBONE}conv.weight"


def _units(opened: LayoutInput) -> tuple[int, ...]:
    file = opened.file
    pattern = rf"{BACKBONE}stages\.(\d+)\.blocks\.(\d+)\."
    units = resnet_shapes.count_units(opened, pattern, 0)
    if _stem(units) not in file:
        first = next(name for name in sorted(file.names()) if name.startswith(BACKBONE))
        raise WeightsError(
            f"{file.path}: it is a hybrid, but tensor {_stem(units)} is missing, the "
            f"first convolution of the ResNets that vitral has; {first} is there. Give "
            f"the weights of one of {', '.join(ARCHITECTURES.values())}."
        )
    return units
