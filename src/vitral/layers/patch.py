"""Patch embedding of an image (arXiv 2010.11929, equation 1)."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers.init import lecun_normal_
from vitral.layers.position import Grid


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> Grid:
    """Return the grid of patches of an image of (height, width).

    Raises:
        ConfigError: a side is not a multiple of the patch's side.
    """
    for side, pixels, patch in zip(
        ("height", "width"), image_size, patch_size, strict=True
    ):
        if pixels < patch or pixels % patch:
            below = max(pixels // patch, 1) * patch
            above = below if pixels < patch else below + patch
            raise ConfigError(
                f"`image_size` must be a multiple of `patch_size`: got {side} {pixels} "
                f"and {patch}. The nearest sizes that fit are {below} and {above}."
            )
    return Grid(image_size[0] // patch_size[0], image_size[1] // patch_size[1])


class PatchEmbed(nn.Module):
    """Linear map of each patch: a convolution whose stride is its kernel.

    Args:
        norm_eps: epsilon of two LayerNorms, on the pixels of each patch (channel
            slowest) and on its embedding; None for no such norms.
        bias: bias of the map.
        rms_eps: epsilon of an RMSNorm on the embedding alone; None for none.
    """

    def __init__(
        self,
        patch_size: tuple[int, int],
        in_chans: int,
        embed_dim: int,
        norm_eps: float | None = None,
        *,
        bias: bool = True,
        rms_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.norm: nn.Module
        if norm_eps is not None:
            pixels = in_chans * math.prod(patch_size)
            self.pixel_norm = nn.LayerNorm(pixels, eps=norm_eps)
            self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        if rms_eps is not None:
            self.norm = nn.RMSNorm(embed_dim, rms_eps)
        self.has_norms = norm_eps is not None
        self.has_rms_norm = rms_eps is not None
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size, bias=bias)
        lecun_normal_(self.proj.weight, fan_in=math.prod(patch_size) * in_chans)
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches dim"]:
        # A model in float64 takes the float32 images that are decoded.
        image = image.to(self.proj.weight.dtype)
        if not self.has_norms:
            embedded = self.proj(image).flatten(2).transpose(1, 2)
            return self.norm(embedded) if self.has_rms_norm else embedded
        size = self.patch_size
        patches = F.unfold(image, size, stride=size).transpose(1, 2)
        pixels = self.pixel_norm(patches)
        return self.norm(F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias))
