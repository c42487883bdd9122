"""ViT_C: a Vision Transformer whose stem is a few convolutions (arXiv 2106.14881).

3 x 3 convolutions of stride 2 and doubling width take the place of the patch
projection (section 5), each with a norm and GELU; a 1 x 1 convolution ends the stem.
It learns from few pictures what a projection of whole patches needs many for. The norm
is a LayerNorm over channels: the paper's BatchNorm depends on the other pictures of the
batch, which differ with the number of ranks.
"""

import re
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers.init import lecun_normal_
from vitral.models.base import Family, require
from vitral.models.features import Images, PatchMask, Tokens
from vitral.models.vit import SIZES, ViT, ViTConfig


@dataclass(frozen=True, kw_only=True)
class ViTCConfig(ViTConfig):
    """Settings of a Vision Transformer with a convolutional stem."""

    def __post_init__(self) -> None:
        super().__post_init__()
        side = self.patch_hw[0]
        require(
            self.patch_hw == (side, side) and side > 1 and side & (side - 1) == 0,
            "`patch_size` must be 2, 4, 8, 16, ... for convolutions that halve the "
            f"image: got {self.patch_size}.",
        )
        require(
            self.embed_dim % side == 0,
            f"`embed_dim` must be a multiple of `patch_size`, {side}, for a stem whose "
            f"widths double: got {self.embed_dim}.",
        )
        require(
            self.norm == "layer",
            "`norm=rms` has a norm on each embedded patch, which this stem has not: "
            "set `norm=layer`.",
        )
        require(
            not self.norm_pre and not self.patch_norm,
            "`norm_pre` and `patch_norm` belong to a projection of patches, and this "
            "stem has norms of its own: leave them False.",
        )

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Channels behind each 3 x 3 convolution: the first keeps the image's size,
        each later one halves it."""
        halvings = self.patch_hw[0].bit_length() - 1
        widths = [self.embed_dim >> (halvings - i) for i in range(halvings + 1)]
        return tuple(widths)

    def _stem_macs(self, size: tuple[int, int]) -> int:
        total, before = 0, self.in_chans
        pixels = size[0] * size[1]
        for i, width in enumerate(self.stem_widths):
            total += 9 * before * width * (pixels >> (2 * i))
            before = width
        cells = pixels // self.patch_hw[0] ** 2
        return total + cells * before * self.embed_dim


class ViTC(ViT):
    """A Vision Transformer with a convolutional stem; `model(images)` gives logits."""

    config: ViTCConfig

    def _build_stem(self, config: ViTConfig) -> nn.Module:
        assert isinstance(config, ViTCConfig)
        return ConvStem(config)

    def embed(self, image: Images, patch_mask: PatchMask | None = None) -> Tokens:
        """Embed the cells of the stem's map (equation 1 of arXiv 2010.11929).

        Raises:
            ConfigError: `patch_mask` was given, or another number of channels.
        """
        if patch_mask is not None:
            raise ConfigError(
                "`patch_mask` cannot be used with a convolutional stem, which looks "
                "across the borders of the mask. Crop the images, or use a Vision "
                "Transformer that projects patches."
            )
        return super().embed(image)


class ConvStem(nn.Module):
    """Convolutions in place of the projection of patches (section 5)."""

    def __init__(self, config: ViTCConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        before = config.in_chans
        for i, width in enumerate(config.stem_widths):
            conv = nn.Conv2d(before, width, 3, min(i + 1, 2), padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            self.convs.append(conv)
            self.norms.append(nn.LayerNorm(width, config.norm_eps))
            before = width
        self.act = nn.GELU()
        self.proj = nn.Conv2d(before, config.embed_dim, 1)
        lecun_normal_(self.proj.weight, fan_in=before)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches dim"]:
        # A model in float64 takes the float32 images that are decoded.
        x = image.to(self.proj.weight.dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            channels_last = norm(conv(x).permute(0, 2, 3, 1))
            x = self.act(channels_last.permute(0, 3, 1, 2))
        return self.proj(x).flatten(2).transpose(1, 2)


NAMES = {
    f"vitc_{size}16": {**SIZES[size], "patch_size": 16} for size in ("ti", "s", "b")
}

PATTERN = re.compile(rf"vitc_({'|'.join(SIZES)})(\d+)")


def parse_name(name: str) -> dict[str, Any] | None:
    """Return the settings of another size and patch, such as `vitc_s8`."""
    match = PATTERN.fullmatch(name)
    if match is None:
        return None
    return {**SIZES[match[1]], "patch_size": int(match[2])}


FAMILY = Family(
    title="A Vision Transformer with a convolutional stem",
    source="2106.14881",
    config=ViTCConfig,
    model=ViTC,
    sizes=NAMES,
    size_fields=("embed_dim", "depth", "num_heads", "mlp_dim", "patch_hw"),
    parse_name=parse_name,
)
