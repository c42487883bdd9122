"""Shift and rotate an image with repeated edges.

Hand-written: torchvision's functional `affine` has no border padding.
"""

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
    """Shift by up to `shift` of a side, rotate up to `rotate` degrees; 0: no draw."""
    height, width = pixels.shape[1:]
    if shift:
        down = round(generator.uniform(-shift, shift) * height)
        right = round(generator.uniform(-shift, shift) * width)
        pixels = _crop_with_edges(pixels, -down, -right)
    if rotate:
        pixels = rotate_image(pixels, float(generator.uniform(-rotate, rotate)))
    return pixels


def rotate_image(
    pixels: Float[Tensor, "3 height width"], degrees: float
) -> Float[Tensor, "3 height width"]:
    """Rotate counter-clockwise about the centre, bilinear, edges repeated."""
    height, width = pixels.shape[1:]
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    # Maps a position in the result to its source; both sides range from -1 to 1.
    source = torch.tensor(
        [[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]]
    )
    grid = F.affine_grid(source, [1, 3, height, width], align_corners=False)
    return F.grid_sample(
        pixels[None], grid, padding_mode="border", align_corners=False
    )[0]


def _crop_with_edges(
    pixels: Float[Tensor, "3 height width"], top: int, left: int
) -> Float[Tensor, "3 height width"]:
    """Cut a window of the image's size that reaches beyond it, edges repeated."""
    height, width = pixels.shape[1:]
    rows = torch.arange(top, top + height).clamp(0, height - 1)
    columns = torch.arange(left, left + width).clamp(0, width - 1)
    return pixels[:, rows][:, :, columns]
