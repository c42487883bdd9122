"""Small moves and turns of an image, its edges repeated."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def shift_rotate(
    pixels: Float[Tensor, "3 height width"],
    shift: float,
    rotate: float,
    generator: np.random.Generator,
) -> Float[Tensor, "3 height width"]:
    """Moved by up to `shift` of height and width and turned by up to `rotate` degrees;
    0 draws nothing."""
    height, width = pixels.shape[1:]
    if shift:
        down = round(generator.uniform(-shift, shift) * height)
        right = round(generator.uniform(-shift, shift) * width)
        pixels = _crop_with_edges(pixels, -down, -right, height, width)
    if rotate:
        pixels = rotate_image(pixels, float(generator.uniform(-rotate, rotate)))
    return pixels


def rotate_image(
    pixels: Float[Tensor, "3 height width"], degrees: float
) -> Float[Tensor, "3 height width"]:
    """Turned counter-clockwise about the middle, bilinear, edges repeated."""
    height, width = pixels.shape[1:]
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    # From a place in the result to its source; sides go from -1 to 1 in both.
    source = torch.tensor(
        [[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]]
    )
    grid = F.affine_grid(source, [1, 3, height, width], align_corners=False)
    return F.grid_sample(
        pixels[None], grid, padding_mode="border", align_corners=False
    )[0]


def _crop_with_edges(
    pixels: Float[Tensor, "3 rows columns"],
    top: int,
    left: int,
    height: int,
    width: int,
) -> Float[Tensor, "3 height width"]:
    """Cut a window that may reach beyond the image, edges repeated."""
    rows = torch.arange(top, top + height).clamp(0, pixels.shape[1] - 1)
    columns = torch.arange(left, left + width).clamp(0, pixels.shape[2] - 1)
    return pixels[:, rows][:, :, columns]
