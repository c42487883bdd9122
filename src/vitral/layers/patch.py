"""From an image to patch embeddings (arXiv 2010.11929, equation 1)."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers.init import lecun_normal_
from vitral.layers.position import Grid


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> Grid:
    """How many patches an image of (height, width) has.

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
    """A linear map of each patch, written as a convolution that steps by its kernel."""

    def __init__(
        self, patch_size: tuple[int, int], in_chans: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)
        lecun_normal_(self.proj.weight, fan_in=math.prod(patch_size) * in_chans)
        nn.init.zeros_(_bias(self.proj))

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches dim"]:
        return self.proj(image).flatten(2).transpose(1, 2)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
