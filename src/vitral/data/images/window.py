"""Resize a picture where only a window of the result is kept.

A long and thin picture is far larger at the model's scale than before and after, so
that only the window may be computed.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitral.data.images.geometry import CropBox, Size

Interpolation = Literal["nearest", "bilinear", "bicubic"]
MAX_GROWTH = 4
"""Largest number of pixels of a step, as a multiple of those of the larger of what it
is given and what is kept of it."""
SMALL_PIXELS = 2**22
"""Pixels that any step may have."""
PILLOW_FILTER = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def is_giant(source: Size, resized: Size, window: CropBox) -> bool:
    """Return whether the resized picture is far larger than its source and window."""
    largest = MAX_GROWTH * max(source.height * source.width, window.area)
    return resized.height * resized.width > max(largest, SMALL_PIXELS)


def resize_window(
    image: Image.Image, resized: Size, window: CropBox, interpolation: Interpolation
) -> Image.Image:
    """Return a window of the resized image, computed alone, with Pillow's filter.

    Args:
        image: RGB, or one channel of float32.
        resized: size to which the whole image would be resized.
    """
    down, across = image.height / resized.height, image.width / resized.width
    box = (
        window.left * across,
        window.top * down,
        min(window.right * across, image.width),
        min(window.bottom * down, image.height),
    )
    size = (window.size.width, window.size.height)
    return image.resize(size, PILLOW_FILTER[interpolation], box=box)


def resize_planes_window(
    planes: Float[np.ndarray, "channels height width"],
    resized: Size,
    window: CropBox,
    interpolation: Interpolation,
) -> Float[Tensor, "channels new_height new_width"]:
    """Return a window of resized planes as `resize_window` does, without rounding."""
    return torch.from_numpy(
        np.stack(
            [
                np.asarray(
                    resize_window(
                        Image.fromarray(plane), resized, window, interpolation
                    )
                )
                for plane in planes
            ]
        )
    )


def sample_window(
    planes: Float[Tensor, "channels height width"],
    resized: Size,
    window: CropBox,
    interpolation: Interpolation,
) -> Float[Tensor, "channels new_height new_width"]:
    """Return a window of the resized planes, computed alone, without a low-pass.

    As `torch.nn.functional.interpolate` up to rounding ("nearest" is "nearest-exact").
    """
    rows = _positions(window.top, window.bottom, planes.shape[1], resized.height)
    columns = _positions(window.left, window.right, planes.shape[2], resized.width)
    if interpolation == "nearest":
        return planes[:, rows.round().long()][:, :, columns.round().long()]
    # The part that the window needs: positions in it stay exact in float32.
    (top, bottom), (left, right) = _reach(rows), _reach(columns)
    part = planes[:, max(top, 0) : bottom, max(left, 0) : right]
    y = (2 * (rows - max(top, 0)) + 1) / part.shape[1] - 1
    x = (2 * (columns - max(left, 0)) + 1) / part.shape[2] - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return F.grid_sample(
        part.double()[None],
        grid[None],
        mode=interpolation,
        padding_mode="border",
        align_corners=False,
    )[0].float()


def _positions(start: int, end: int, old: int, new: int) -> Float[Tensor, " cells"]:
    """Return the places of new cells among the old ones, whose centres are whole."""
    cells = torch.arange(start, end, dtype=torch.float64)
    return ((cells + 0.5) * (old / new) - 0.5).clamp(-0.499, old - 0.501)


def _reach(positions: Float[Tensor, " cells"]) -> tuple[int, int]:
    return int(positions.min()) - 3, int(positions.max()) + 4
