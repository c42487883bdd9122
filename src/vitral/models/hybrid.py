"""Hybrid: a Vision Transformer on a ResNet's map (arXiv 2010.11929, section 3.1).

The backbone is a ResNet of post-activation units. Its last map is cut into patches,
mostly of one cell, as a plain image is. Sizes with R26 and R+Ti are those of arXiv
2106.10270. Parameter names are timm's.
"""

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers import PatchEmbed
from vitral.layers.bottleneck import (
    PostActivationUnit,
    Stem,
    backbone_macs,
    stages,
)
from vitral.layers.conv import EpsAt, Padding
from vitral.layers.patch import patch_grid
from vitral.models.base import Family, require
from vitral.models.bounds import check_bounds
from vitral.models.features import Images, PatchMask, Tokens
from vitral.models.resnet import BackboneConfig
from vitral.models.vit import FOREIGN_SIZES, SIZES, ViT, ViTConfig


@dataclass(frozen=True, kw_only=True)
class HybridConfig(BackboneConfig, ViTConfig):
    """Settings of a hybrid.

    `patch_size` is in pixels, as for every Vision Transformer: the stride of the
    backbone times the side of a patch on its map.
    """

    units: tuple[int, ...] = (3, 4, 9)
    """Bottleneck units of each stage; none for the stem alone."""
    group_norm_eps: float = 1e-6
    """Epsilon of every GroupNorm."""
    std_eps: float = 1e-5
    """Epsilon of weight standardisation."""
    std_eps_at: EpsAt = "deviation"
    """Its place: (w - mean) / (deviation + eps)."""
    padding: Padding = "same"
    """Padding as TensorFlow's SAME."""

    def __post_init__(self) -> None:
        check_bounds(self)
        BackboneConfig.__post_init__(self)
        stride = self.feature_stride
        require(
            all(side > 0 and side % stride == 0 for side in self.patch_hw),
            f"`patch_size` must be a multiple of the backbone's stride, {stride} pixels"
            f" for `units={self.units}`: got {self.patch_size}.",
        )
        require(
            self.norm == "layer",
            "`norm=rms` has a norm on each embedded patch, which this stem has not: "
            "set `norm=layer`.",
        )
        require(
            not self.norm_pre,
            "`norm_pre` is of CLIP's tower alone, whose patches are cut from pixels: "
            "leave it False.",
        )
        require(
            not self.patch_norm,
            "`patch_norm` normalises pixels and a hybrid has a ResNet before its "
            "patches: leave it False.",
        )
        ViTConfig.__post_init__(self)

    @property
    def feature_patch(self) -> tuple[int, int]:
        """Rows and columns of cells per patch."""
        rows, columns = self.patch_hw
        return rows // self.feature_stride, columns // self.feature_stride

    def _stem_macs(self, size: tuple[int, int]) -> int:
        cells = math.prod(patch_grid(size, self.patch_hw))
        embed = cells * math.prod(self.feature_patch) * self.feature_dim
        body = backbone_macs(size, self.in_chans, self.units, self.width)
        return body + embed * self.embed_dim


class Hybrid(ViT):
    """A Vision Transformer on the map of a ResNet; `model(images)` gives logits.

    For freezing and learning rates the whole ResNet is the stem.
    """

    config: HybridConfig

    def _build_stem(self, config: ViTConfig) -> nn.Module:
        assert isinstance(config, HybridConfig)
        return HybridEmbed(config)

    def embed(self, image: Images, patch_mask: PatchMask | None = None) -> Tokens:
        """Embed the patches of the ResNet's map (equation 1).

        Raises:
            ConfigError: `patch_mask` was given, or another number of channels.
        """
        if patch_mask is not None:
            raise ConfigError(
                "`patch_mask` cannot be used with a hybrid: the convolutions before "
                "its patches look across the borders of the mask. Crop the images, or "
                "use a Vision Transformer without a ResNet."
            )
        return super().embed(image)


class HybridEmbed(nn.Module):
    """Backbone, and linear map of each patch of its last map."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        width, numerics = config.width, config.numerics
        stem = Stem(config.in_chans, width, norm=True, numerics=numerics)
        self.backbone: nn.Module = stem
        if config.units:
            body = stages(config.units, width, PostActivationUnit, numerics)
            self.backbone = nn.Sequential(OrderedDict(stem=stem, stages=body))
        embed = PatchEmbed(config.feature_patch, config.feature_dim, config.embed_dim)
        self.proj = embed.proj

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches dim"]:
        return self.proj(self.backbone(image)).flatten(2).transpose(1, 2)


BACKBONES: dict[tuple[str, int], tuple[int, ...]] = {
    ("r", 32): (),
    ("r26", 32): (2, 2, 2, 2),
    ("r50", 16): (3, 4, 9),
    ("r50", 32): (3, 4, 6, 3),
}
"""Units by backbone and patch in pixels. R50 at 16 has the units of its last stage in
the third."""


def settings(backbone: str, size: str, patch: int) -> dict[str, Any]:
    """Return the settings of a name; `patch` is the real one, in pixels."""
    return {
        **SIZES[size],
        "patch_size": patch,
        "units": BACKBONES[backbone, patch],
        "width_factor": 1,
        "stem_width": 64,
    }


NAMES = {
    # The published name says 16. The released code halves twice in the stem and then
    # takes 8 x 8 cells, which is 32 pixels and 7 x 7 patches at 224.
    "r_vit_ti16": settings("r", "ti", 32),
    "r26_vit_s32": settings("r26", "s", 32),
    "r26_vit_b32": settings("r26", "b", 32),
    "r50_vit_b16": settings("r50", "b", 16),
    "r50_vit_b32": settings("r50", "b", 32),
    "r50_vit_l16": settings("r50", "l", 16),
    "r50_vit_l32": settings("r50", "l", 32),
}

TIMM = re.compile(
    rf"vit_({'|'.join(FOREIGN_SIZES)})_(r|r26|r50)_s(\d+)(?:_p8)?_(\d+)(?:\.\w+)?"
)
TIMM_NUMERICS: dict[str, Any] = {
    "act": "gelu",
    "group_norm_eps": 1e-5,
    "std_eps": 1e-8,
    "std_eps_at": "variance",
}


def parse_name(name: str) -> dict[str, Any] | None:
    """Return the settings of a name of timm."""
    match = TIMM.fullmatch(name)
    if match is None:
        return None
    size, backbone, stride, pixels = match.groups()
    ours = f"{backbone}_vit_{FOREIGN_SIZES[size]}{stride}"
    if ours not in NAMES or (backbone == "r") != ("_p8_" in name):
        return None
    return {**NAMES[ours], **TIMM_NUMERICS, "image_size": int(pixels)}


FAMILY = Family(
    title="A hybrid Vision Transformer",
    source="2010.11929",
    config=HybridConfig,
    model=Hybrid,
    sizes=NAMES,
    size_fields=(
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_dim",
        "patch_hw",
        "units",
        "width_factor",
        "stem_width",
    ),
    parse_name=parse_name,
)
