"""BiT, the ResNet that the Vision Transformer is compared with (arXiv 1912.11370).

A pre-activation ResNet (arXiv 1603.05027) of GroupNorm and weight-standardised
convolutions, without batch statistics. Its "patches" are the cells of its feature map,
its blocks the bottleneck units. Parameter names are timm's.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers import Grid
from vitral.layers.bottleneck import (
    PreActivationUnit,
    Stem,
    backbone_macs,
    map_grid,
    output_channels,
    stages,
    total_stride,
)
from vitral.layers.conv import ConvNumerics, EpsAt, Padding
from vitral.models.base import (
    Family,
    ModelConfig,
    Size2d,
    VisionModel,
    require,
    require_input,
    to_2tuple,
)
from vitral.models.bounds import check_bounds
from vitral.models.features import Features, Images, PatchMask, Tokens


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Settings of the convolutions of BiT, and of the ResNet of a hybrid."""

    units: tuple[int, ...] = (3, 4, 6, 3)
    """Bottleneck units of each stage."""
    width_factor: int = 1
    """Factor of all widths: the x3 of R50x3."""
    stem_width: int = 64
    """Channels of the stem at factor 1; the stages have 4, 8, 16, 32 times as many."""
    num_groups: int = 32
    """Groups of every GroupNorm."""
    group_norm_eps: float = 1e-5
    """Epsilon of every GroupNorm."""
    std_eps: float = 1e-10
    """Epsilon of weight standardisation."""
    std_eps_at: EpsAt = "variance"
    """Its place: `variance` for (w - mean) / sqrt(variance + eps), `deviation`
    for (w - mean) / (deviation + eps)."""
    padding: Padding = "fixed"
    """`fixed` pads both sides alike, `same` as TensorFlow's SAME."""

    def __post_init__(self) -> None:
        require(
            min(self.units, default=1) > 0,
            f"`units` must be positive, one number for each stage: got {self.units}.",
        )
        require(
            self.width > 0
            and self.num_groups > 0
            and self.width % self.num_groups == 0,
            "`stem_width` times `width_factor` must be a multiple of `num_groups`: got "
            f"{self.width} and {self.num_groups}.",
        )

    @property
    def width(self) -> int:
        """Channels of the stem."""
        return self.stem_width * self.width_factor

    @property
    def feature_stride(self) -> int:
        """Pixels between two cells of the last map."""
        return total_stride(self.units)

    @property
    def feature_dim(self) -> int:
        """Channels of the last map."""
        return output_channels(self.units, self.width)

    @property
    def numerics(self) -> ConvNumerics:
        return ConvNumerics(
            std_eps=self.std_eps,
            std_eps_at=self.std_eps_at,
            group_norm_eps=self.group_norm_eps,
            num_groups=self.num_groups,
            padding=self.padding,
        )


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(BackboneConfig, ModelConfig):
    """Settings of a BiT ResNet."""

    def __post_init__(self) -> None:
        check_bounds(self)
        super().__post_init__()
        require(
            len(self.units) > 0,
            "`units` must have at least one stage: got none. R50 is (3, 4, 6, 3).",
        )

    @property
    def grid(self) -> Grid:
        return map_grid(self.image_hw, self.feature_stride)

    @property
    def num_prefix_tokens(self) -> int:
        return 0

    @property
    def pooled_dim(self) -> int:
        return self.feature_dim

    @property
    def num_blocks(self) -> int:
        return sum(self.units)

    def macs(self, image_size: Size2d | None = None) -> int:
        """Return the multiply-accumulates of one image, in convolutions and head."""
        size = self.image_hw if image_size is None else to_2tuple(image_size)
        body = backbone_macs(size, self.in_chans, self.units, self.width)
        return body + self.pooled_dim * self.num_classes


class ResNet(VisionModel):
    """A BiT ResNet; `model(images)` gives logits. Images of any size are accepted."""

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width, numerics = config.width, config.numerics
        self.stem = Stem(config.in_chans, width, norm=False, numerics=numerics)
        self.stages = stages(config.units, width, PreActivationUnit, numerics)
        self.norm = numerics.norm(config.pooled_dim)
        self.head: nn.Module = nn.Identity()
        self.reset_head(config.num_classes)

    def reset_head(self, num_classes: int) -> None:
        if num_classes == 0:
            self.head = nn.Identity()
            return
        head = ConvHead(self.config.pooled_dim, num_classes, self.config.head_bias)
        self.head = head.to(self.norm.weight)

    def embed(self, image: Images, patch_mask: PatchMask | None = None) -> Tokens:
        """Apply the stem, which gives one cell for every 4 x 4 pixels.

        Raises:
            ConfigError: `patch_mask` was given, or another number of channels.
        """
        if patch_mask is not None:
            raise ConfigError(
                "`patch_mask` cannot be used with a ResNet: its convolutions look "
                "across the borders of the mask. Crop the images, or use a Vision "
                "Transformer."
            )
        require_input(self.config, image)
        return _to_tokens(self.stem(image))

    def forward_blocks(
        self, tokens: Tokens, first: int = 0, last: int | None = None
    ) -> Tokens:
        x = _to_map(tokens)
        for unit in self._units()[first:last]:
            x = unit(x)
        return _to_tokens(x)

    def forward_norm(self, tokens: Tokens) -> Features:
        """Apply the final norm and ReLU."""
        x = F.relu(self.norm(_to_map(tokens)))
        return Features(cls=None, patches=x.permute(0, 2, 3, 1))

    def forward_pool(self, features: Features) -> Float[Tensor, "batch dim"]:
        """Return the mean of the map."""
        return features.patches.mean(dim=(1, 2))

    def layer_index(self, name: str) -> int:
        if name.startswith("stem."):
            return 0
        if not name.startswith("stages."):
            return self.config.num_blocks + 1
        _, stage, _, unit, *_ = name.split(".")
        return sum(self.config.units[: int(stage)]) + int(unit) + 1

    def _units(self) -> list[nn.Module]:
        return [
            unit
            for stage in self.stages
            for unit in stage.get_submodule("blocks").children()
        ]


class ConvHead(nn.Module):
    """Head as BiT stores it: a 1 x 1 convolution, here applied to pooled vectors.

    Weights start at zero, so that every class starts equal.
    """

    def __init__(self, dim: int, num_classes: int, bias: float) -> None:
        super().__init__()
        self.fc = nn.Conv2d(dim, num_classes, 1)
        assert self.fc.bias is not None
        nn.init.zeros_(self.fc.weight)
        nn.init.constant_(self.fc.bias, bias)

    def forward(
        self, pooled: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch classes"]:
        return F.linear(pooled, self.fc.weight.flatten(1), self.fc.bias)


def _to_tokens(x: Float[Tensor, "batch dim rows columns"]) -> Tokens:
    return Tokens(x.flatten(2).transpose(1, 2), x.shape[2], x.shape[3])


def _to_map(tokens: Tokens) -> Float[Tensor, "batch dim rows columns"]:
    return tokens.x.transpose(1, 2).unflatten(2, (tokens.rows, tokens.columns))


UNITS: dict[int, tuple[int, ...]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Units per stage of each depth, counted in layers."""

NAME_PATTERN = re.compile(rf"bit_r({'|'.join(map(str, UNITS))})x([1-9]\d?)")
TIMM = re.compile(
    rf"resnetv2_({'|'.join(map(str, UNITS))})x([1-9])_bit(?:\.(goog_\w+))?"
)
HUGGING_FACE = re.compile(rf"google/bit-({'|'.join(map(str, UNITS))})")
TIMM_NUMERICS: dict[str, Any] = {"std_eps": 1e-8}
"""Constant in which timm and Hugging Face differ from BiT."""


def settings(depth: int, width_factor: int) -> dict[str, Any]:
    """Return the settings of the name bit_r<depth>x<width_factor>."""
    return {"units": UNITS[depth], "width_factor": width_factor}


NAMES = {
    f"bit_r{depth}x{factor}": settings(depth, factor)
    for depth, factors in (
        (26, (1,)),
        (50, (1, 2, 3)),
        (101, (1, 3)),
        (152, (1, 2, 4)),
        (200, (3,)),
    )
    for factor in factors
}


def parse_name(name: str) -> dict[str, Any] | None:
    """Return the settings of another native width, or of a foreign name."""
    if match := NAME_PATTERN.fullmatch(name):
        return settings(int(match[1]), int(match[2]))
    if match := TIMM.fullmatch(name):
        depth, factor = int(match[1]), int(match[2])
        pixels = _timm_pixels(depth, factor, match[3] or "")
        return {**settings(depth, factor), **TIMM_NUMERICS, "image_size": pixels}
    if match := HUGGING_FACE.fullmatch(name):
        return {**settings(int(match[1]), 1), **TIMM_NUMERICS}
    return None


def name_for(config: ResNetConfig) -> str:
    """Return the native name of a model's size; empty if it has none."""
    for depth, units in UNITS.items():
        if config.units == units and config.stem_width == 64:
            return f"bit_r{depth}x{config.width_factor}"
    return ""


def _timm_pixels(depth: int, factor: int, tag: str) -> int:
    if tag == "goog_in21k_ft_in1k":
        return 480 if (depth, factor) == (152, 4) else 448
    return 384 if tag.endswith("_384") else 224


FAMILY = Family(
    title="A BiT ResNet",
    source="1912.11370",
    config=ResNetConfig,
    model=ResNet,
    sizes=NAMES,
    size_fields=("units", "width_factor", "stem_width"),
    parse_name=parse_name,
    name_for=name_for,
)
