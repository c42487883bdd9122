"""Resize a picture where only a window of the result is kept.

A long and thin picture is far larger at the model's scale than before and after, so
that only the window may be computed.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
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


def resize_antialiased(
    pixels: Shaped[Tensor, "batch channels height width"],
    size: Size,
    interpolation: Literal["bilinear", "bicubic"],
) -> Shaped[Tensor, "batch channels new_height new_width"]:
    """Resize with torch's low-pass.

    torch makes the new width first. Of a tall strip that would be far larger than
    source and result, so that the new height comes first there, as in Pillow.
    """
    height, width = pixels.shape[-2:]
    between = Size(height, size.width)
    steps = [size]
    if is_giant(Size(height, width), between, CropBox(0, 0, *size)):
        steps = [Size(size.height, width), size]
    for step in steps:
        pixels = F.interpolate(
            pixels, size=step, mode=interpolation, antialias=True, align_corners=False
        )
    return pixels


def nearest_cells(
    source: Size, resized: Size, window: CropBox
) -> tuple[Int64[Tensor, "height 1"], Int64[Tensor, " width"]]:
    """Return row and column of the source under the centre of each cell of a window."""
    rows, columns = (
        ((torch.arange(start, end, dtype=torch.float64) + 0.5) * (old / new))
        .long()
        .clamp(max=old - 1)
        for start, end, old, new in (
            (window.top, window.bottom, source.height, resized.height),
            (window.left, window.right, source.width, resized.width),
        )
    )
    return rows[:, None], columns


def resize_window(
    image: Image.Image, resized: Size, window: CropBox, interpolation: Interpolation
) -> Image.Image:
    """Return a window of the resized image, computed alone, with Pillow's filter.

    Args:
        image: RGB, or one channel of float32.
        resized: size to which the whole image would be resized.
    """
    if interpolation == "nearest":
        # Pillow adds up rounding errors, by which other pixels are the nearest.
        cells = nearest_cells(Size(image.height, image.width), resized, window)
        rows, columns = (index.numpy() for index in cells)
        return Image.fromarray(np.asarray(image)[rows, columns])
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
    if interpolation == "nearest":
        # Both at once: one after the other would copy whole rows.
        return planes[:, *nearest_cells(Size(*planes.shape[1:]), resized, window)]
    rows = _positions(window.top, window.bottom, planes.shape[1], resized.height)
    columns = _positions(window.left, window.right, planes.shape[2], resized.width)
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
