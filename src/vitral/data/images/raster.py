"""Values of a file that 8 bits of red, green and blue cannot hold.

A picture for a person has three channels of 8 bits; beside it stay the values of the
file, which a model scales by one range for its whole data set.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from vitral.errors import ImageError

ValueRange = tuple[float, float]
_LUMA = np.array([299, 587, 114]) / 1000
"""Weights of red, green and blue in grey, as Pillow's (ITU-R 601-2)."""
_BLOCK = 2**20
"""Values that are scaled at a time, in float64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Raster:
    """Values [height, width, channels] as a file stores them."""

    values: Shaped[np.ndarray, "height width channels"]
    container: ValueRange
    """Lowest and highest value of the container: 0 and 65535 for 16 bits."""
    opacity: bool = False
    """True if the last channel is opacity: only a model that takes all channels is
    given it, others see the picture on white."""

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return self.values.shape[2]

    @property
    def is_uint8(self) -> bool:
        """Return whether the values have 8 bits, and so a range that is known."""
        return self.values.dtype == np.uint8

    def planes(
        self, channels: int, value_range: ValueRange | None
    ) -> Float[Tensor, "channels height width"]:
        """Return the channels that a model takes, scaled to 0..255, never rounded.

        Args:
            channels: one of three is grey, three of one are copies, three of more are
                the first.
            value_range: values that become 0 and 255; others go beyond. None: those of
                the container.

        Raises:
            ImageError: the file has too few channels, or 8 bits where the range is
                that of other values.
        """
        if value_range and self.is_uint8:
            raise ImageError(
                "it holds 8-bit values, and the model was trained on values from "
                f"{value_range[0]:g} to {value_range[1]:g}: give files of the same kind"
            )
        if self.opacity and channels != self.channels:
            return self.on_white().planes(channels, value_range)
        low, high = value_range or self.container
        scale = 255 / (high - low or 1.0)
        height, width = self.values.shape[:2]
        planes = np.empty((channels, height, width), np.float32)
        for rows in row_blocks(self.values):
            scaled = (self._select(channels, rows).astype(np.float64) - low) * scale
            planes[:, rows] = scaled.transpose(2, 0, 1)
        return torch.from_numpy(planes)

    def picture(self) -> Image.Image:
        """Return an RGB image for a person: the first three channels, or grey."""
        if self.opacity:
            return self.on_white().picture()
        channels = 3 if self.channels >= 3 else 1
        pixels = scale_to_uint8(self.values[..., :channels], self.container)
        if channels == 1:
            return Image.fromarray(pixels[..., 0]).convert("RGB")
        return Image.fromarray(pixels)

    def on_white(self) -> "Raster":
        """Return the channels before the last, which is their opacity, on white."""
        low, high = self.container
        colour = self.values[..., :-1]
        flat = np.empty(colour.shape, colour.dtype)
        for rows in row_blocks(self.values):
            share = self.values[rows, :, -1:].astype(np.float64)
            opacity = (share - low) / (high - low)
            mixed = colour[rows] * opacity + high * (1 - opacity)
            flat[rows] = mixed if colour.dtype.kind == "f" else np.rint(mixed)
        return Raster(values=flat, container=self.container)

    def _select(
        self, channels: int, rows: slice
    ) -> Shaped[np.ndarray, "rows width channels"]:
        values = self.values[rows]
        if channels == self.channels:
            return values
        if channels == 3:
            if self.channels > 3:
                return values[..., :3]
            return values[..., [0, 0, 0]]
        if channels == 1 and self.channels == 3:
            return (values @ _LUMA)[..., None]
        if channels < self.channels:
            return values[..., :channels]
        raise ImageError(
            f"it has {self.channels} channel(s), and the model takes {channels}"
        )


def row_blocks(values: Shaped[np.ndarray, "height width channels"]) -> Iterator[slice]:
    """Yield the rows in parts, so that float64 copies stay small."""
    height = len(values)
    step = max(1, _BLOCK * height // max(1, values.size))
    for start in range(0, height, step):
        yield slice(start, start + step)


def scale_to_uint8(
    values: Shaped[np.ndarray, "height width channels"], ends: ValueRange
) -> UInt8[np.ndarray, "height width channels"]:
    """Return values in 0..255, where `ends` are 0 and 255."""
    low, high = ends

    def scale(part: np.ndarray) -> np.ndarray:
        scaled = (part.astype(np.float64) - low) / (high - low or 1.0) * 255
        return np.rint(scaled).clip(0, 255).astype(np.uint8)

    table = scale(np.arange(2**16)) if values.dtype == np.uint16 else None
    pixels = np.empty(values.shape, np.uint8)
    for rows in row_blocks(values):
        part = values[rows]
        pixels[rows] = scale(part) if table is None else table[part]
    return pixels


class RasterImage(Image.Image):
    """The picture of a raster for a person, with the raster."""

    raster: Raster


def attach_raster(picture: Image.Image, raster: Raster) -> RasterImage:
    """Return the picture with its raster; a crop or copy of it has none."""
    image = RasterImage()
    vars(image).update(vars(picture))
    image.raster = raster
    return image


def raster_of(image: Image.Image) -> Raster:
    """Return the raster of a picture, or its own 8-bit red, green and blue."""
    if isinstance(image, RasterImage):
        return image.raster
    return Raster(values=np.asarray(image), container=(0.0, 255.0))


def turn_upright(
    values: Shaped[np.ndarray, "height width channels"], orientation: int
) -> Shaped[np.ndarray, "new_height new_width channels"]:
    """Return the values as EXIF's orientation 1 to 8 wants them shown."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
