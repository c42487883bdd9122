"""Small moves and turns of an image, its edges repeated."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def moved(
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
        pixels = _window(pixels, -down, -right, height, width)
    if rotate:
        from torchvision.transforms import v2
        from torchvision.transforms.v2 import functional as transforms

        angle = float(generator.uniform(-rotate, rotate))
        # Enough repeated edge that no corner is empty after the turn.
        margin = math.ceil((math.hypot(height, width) - min(height, width)) / 2) + 1
        padded = _window(
            pixels, -margin, -margin, height + 2 * margin, width + 2 * margin
        )
        turned = transforms.rotate(
            padded, angle, interpolation=v2.InterpolationMode.BILINEAR
        )
        pixels = turned[:, margin : margin + height, margin : margin + width]
    return pixels


def _window(
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
