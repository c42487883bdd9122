"""Shift and rotate an image with repeated edges.

Hand-written: torchvision's functional `affine` has no border padding.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor


def shift_image(
    pixels: Shaped[Tensor, "*planes height width"], down: int, right: int
) -> Shaped[Tensor, "*planes height width"]:
    """Shift by whole pixels, edges repeated."""
    height, width = pixels.shape[-2:]
    rows = torch.arange(-down, height - down).clamp(0, height - 1)
    columns = torch.arange(-right, width - right).clamp(0, width - 1)
    return pixels[..., rows, :][..., columns]


def rotate_image(
    pixels: Float[Tensor, "channels height width"],
    degrees: float,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "channels height width"]:
    """Rotate counter-clockwise about the centre, edges repeated."""
    height, width = pixels.shape[1:]
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    # Maps a position in the result to its source; both sides range from -1 to 1.
    source = torch.tensor(
        [[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]]
    )
    grid = F.affine_grid(source, [1, 3, height, width], align_corners=False)
    return F.grid_sample(
        pixels[None], grid, mode=mode, padding_mode="border", align_corners=False
    )[0]
