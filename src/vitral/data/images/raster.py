"""Values of a file that 8 bits of red, green and blue cannot hold.

A picture for a person has three channels of 8 bits; beside it stay the values of the
file, which a model scales by one range for its whole data set.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from vitral.errors import ImageError

ValueRange = tuple[float, float]
_LUMA = np.array([299, 587, 114]) / 1000
"""Weights of red, green and blue in grey, as Pillow's (ITU-R 601-2)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Raster:
    """Values [height, width, channels] as a file stores them."""

    values: Shaped[np.ndarray, "height width channels"]
    container: ValueRange
    """Lowest and highest value of the container: 0 and 65535 for 16 bits."""
    opacity: bool = False
    """Whether the last channel is opacity: only a model that takes all channels is
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
        scaled = (self._select(channels).astype(np.float64) - low) * scale
        planes = np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)
        return torch.from_numpy(planes)

    def picture(self) -> Image.Image:
        """Return an RGB image for a person: the first three channels, or grey."""
        if self.opacity:
            return self.on_white().picture()
        channels = 3 if self.channels >= 3 else 1
        low, high = self.container
        values = self.values[..., :channels].astype(np.float64)
        scaled = (values - low) / (high - low or 1.0) * 255
        pixels = np.rint(scaled).clip(0, 255).astype(np.uint8)
        return Image.fromarray(np.repeat(pixels, 3 // channels, axis=2))

    def on_white(self) -> "Raster":
        """Return the channels before the last, which is their opacity, on white."""
        low, high = self.container
        opacity = (self.values[..., -1:].astype(np.float64) - low) / (high - low)
        colour = self.values[..., :-1]
        flat = colour * opacity + high * (1 - opacity)
        if colour.dtype.kind != "f":
            flat = np.rint(flat)
        return Raster(values=flat.astype(colour.dtype), container=self.container)

    def _select(self, channels: int) -> Shaped[np.ndarray, "height width channels"]:
        values = self.values
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
