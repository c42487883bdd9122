"""Geometry and scale of a model's images: no randomness, no choice of frames.

`vitral.data.Preprocess` adds what is asked about the kind of input.

The defaults are those of the official ViT code (arXiv 2010.11929): squash to the
size, bilinear without antialias, (x - 127.5) / 127.5.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from vitral.data.images import uint8
from vitral.data.images.decode import decode, to_rgb
from vitral.data.images.deep_files import container_range
from vitral.data.images.geometry import CropBox, Geometry, Size
from vitral.data.images.preprocess_checks import CHECKS, to_field_value
from vitral.data.images.raster import Raster, ValueRange, attach_raster, raster_of
from vitral.data.images.window import (
    PILLOW_FILTER,
    Interpolation,
    is_giant,
    resize_planes_window,
    resize_window,
    sample_window,
)
from vitral.errors import ConfigError
from vitral.validation import Checks, check_fields

Readable = str | Path | bytes | Image.Image | np.ndarray
"""A path, the bytes of a file, a Pillow image, or an array."""


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """Resize, crop and normalise single images, or each frame of a clip."""

    image_size: tuple[int, int] = (224, 224)
    """(height, width) of the result in pixels."""
    resize: Literal["squash", "crop"] = "squash"
    """"squash" ignores the aspect ratio; "crop" keeps it and cuts the centre."""
    crop_fraction: float = 1.0
    """Fraction of the resized height and width that the centre crop keeps; 1: all."""
    interpolation: Interpolation = "bilinear"
    """Resampling filter."""
    antialias: bool = False
    """Low-pass before shrinking, as Pillow does; False as in the official ViT code."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Mean of each channel on the 0..1 scale; their number is the model's."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Standard deviation of each channel on the 0..1 scale."""
    value_range: ValueRange | None = None
    """Values of a file that become 0 and 1, one range for all files of a data set.
    None: those that the file's type promises, 0..255 for 8 bits."""

    CHECKS: ClassVar[Checks] = CHECKS
    """A predicate for each field, in order, and what it requires."""

    def __post_init__(self) -> None:
        check_fields(type(self), asdict(self), self.CHECKS)
        if len(self.mean) != len(self.std):
            raise ConfigError(
                "`Preprocess.mean` and `Preprocess.std` must have one number for each "
                f"channel: got {len(self.mean)} and {len(self.std)}."
            )

    def __call__(self, image: Readable) -> Float[Tensor, "channels height width"]:
        """Decode if needed, resize, crop and normalise one image.

        Args:
            image: a path, the bytes of a file, a Pillow image of any mode, or a uint8
                array [height, width, 3] or [height, width]; for a model of other
                channels or values an array [height, width, channels] of any numbers.

        Raises:
            ImageError: the file cannot be decoded, or has not the model's channels.
            ConfigError: the array has another type or shape.
        """
        if not self.is_rgb8:
            return self.normalize(self.resize_and_crop(as_picture(image)))
        rgb = as_rgb(image)
        if self.antialias:
            values = uint8.to_planes(self.resize_and_crop_image(rgb))
            return uint8.normalize(values, self.mean, self.std)
        return self.normalize(self.resize_and_crop(rgb))

    @property
    def channels(self) -> int:
        """Return the number of channels of the model's input."""
        return len(self.mean)

    @property
    def is_rgb8(self) -> bool:
        """Return whether red, green and blue of 8 bits are all that is taken."""
        return self.channels == 3 and self.value_range is None

    def resize_and_crop(
        self, image: Image.Image
    ) -> Float[Tensor, "channels height width"]:
        """Return the image at the final size, values 0..255, not normalised."""
        size = self.size_before_crop(Size(image.height, image.width))
        return self.resample(image, size, self._center_window(size))

    def resize_and_crop_image(self, image: Image.Image) -> Image.Image:
        """Return `resize_and_crop` as a Pillow image; requires `antialias`."""
        size = self.size_before_crop(Size(image.height, image.width))
        return self.resample_image(image, size, self._center_window(size))

    def geometry(self, source: Size) -> Geometry:
        """Return the geometry of an evaluation: resize, then cut the centre."""
        resized = self.size_before_crop(source)
        return Geometry(
            source=source,
            box=CropBox(0, 0, *source),
            resized=resized,
            window=self._center_window(resized),
        )

    def size_before_crop(self, source: Size) -> Size:
        """Return the size to which a source image is resized before the centre crop."""
        height, width = (
            math.floor(side / self.crop_fraction) for side in self.image_size
        )
        if self.resize == "squash":
            return Size(height, width)
        # Integer products: a float ratio can end one pixel short of the target.
        if height * source.width >= width * source.height:
            return Size(height, max(width, source.width * height // source.height))
        return Size(max(height, source.height * width // source.width), width)

    def resample(
        self, image: Image.Image, size: Size, window: CropBox | None = None
    ) -> Float[Tensor, "channels height width"]:
        """Resize an image with this specification's filter; values 0..255.

        Args:
            image: RGB; where the model takes other values, with its raster.
            window: the part of the result that is returned; None: all of it.
        """
        window = window or CropBox(0, 0, *size)
        if not self.is_rgb8:
            planes = raster_of(image).planes(self.channels, self.value_range)
            return self.resample_planes(planes, size, window)
        if self.antialias or (image.height, image.width) == size:
            return uint8.to_planes(self.resample_image(image, size, window)).float()
        # One channel at a time: a large picture as floats is four times as large.
        resized = [
            self._interpolate(plane[None].float(), size, window)
            for plane in uint8.to_planes(image)
        ]
        # Bicubic overshoots; Pillow's 8-bit result is limited in the same way.
        return torch.cat(resized).clamp_(0, 255)

    def resample_planes(
        self,
        planes: Float[Tensor, "channels height width"],
        size: Size,
        window: CropBox,
    ) -> Float[Tensor, "channels new_height new_width"]:
        """Resize planes of any values, and return a window of the result."""
        if planes.shape[1:] == size:
            return planes[:, window.top : window.bottom, window.left : window.right]
        if self.antialias:
            return resize_planes_window(
                planes.numpy(), size, window, self.interpolation
            )
        return self._interpolate(planes, size, window)

    def _interpolate(
        self,
        planes: Float[Tensor, "channels height width"],
        size: Size,
        window: CropBox,
    ) -> Float[Tensor, "channels new_height new_width"]:
        if is_giant(Size(*planes.shape[1:]), size, window):
            return sample_window(planes, size, window, self.interpolation)
        if self.interpolation == "nearest":
            mode, align_corners = "nearest-exact", None
        else:
            mode, align_corners = self.interpolation, False
        pixels = F.interpolate(
            planes[None], size=size, mode=mode, align_corners=align_corners
        )[0]
        return pixels[:, window.top : window.bottom, window.left : window.right]

    def resample_image(
        self, image: Image.Image, size: Size, window: CropBox | None = None
    ) -> Image.Image:
        """Resize an RGB image with Pillow: low-passed, 8-bit; see `resample`."""
        window = window or CropBox(0, 0, *size)
        source = Size(image.height, image.width)
        if is_giant(source, size, window):
            return resize_window(image, size, window, self.interpolation)
        if source != size:
            method = PILLOW_FILTER[self.interpolation]
            image = image.resize((size.width, size.height), method)
        if window == CropBox(0, 0, *size):
            return image
        return image.crop((window.left, window.top, window.right, window.bottom))

    def normalize(
        self, pixels: Shaped[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Map pixels 0..255 (uint8 or float) to the model's scale in float32."""
        mean, std = self._statistics()
        # In place on the new tensor: the same operations in half the time.
        return (pixels.float() / 255).sub_(mean).div_(std)

    def denormalize(
        self, image: Float[Tensor, "*batch channels height width"]
    ) -> UInt8[Tensor, "*batch 3 height width"]:
        """Undo `normalize` for display; exact for every 8-bit value.

        Of more than three channels the first three are shown, of fewer the first one,
        as grey.
        """
        mean, std = self._statistics()
        pixels = (image.float().cpu() * std + mean) * 255
        shown = [0, 1, 2] if self.channels >= 3 else [0, 0, 0]
        if self.channels != 3:
            pixels = pixels[..., shown, :, :]
        return pixels.round().clamp(0, 255).to(torch.uint8)

    @property
    def hash(self) -> str:
        """Return 16 hexadecimal digits that change with any field."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `parse_fields` reads them back."""
        # 0 and 0.0 are the same mean and must have the same hash.
        values = asdict(self) | {
            "image_size": list(self.image_size),
            "crop_fraction": float(self.crop_fraction),
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
        }
        # Without a range the key is left out: hashes of 8-bit models are older.
        ends = values.pop("value_range")
        return values | ({"value_range": [float(end) for end in ends]} if ends else {})

    @classmethod
    def parse_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of JSON in the types of the fields, checked.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        plain = {name: to_field_value(name, value) for name, value in values.items()}
        check_fields(cls, plain, cls.CHECKS)
        return plain

    def _center_window(self, size: Size) -> CropBox:
        height, width = self.image_size
        top, left = round((size.height - height) / 2), round((size.width - width) / 2)
        return CropBox(top, left, top + height, left + width)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, dtype=torch.float32)[:, None, None]
        return mean, torch.tensor(self.std, dtype=torch.float32)[:, None, None]


def as_picture(image: Readable) -> Image.Image:
    """Convert what can be read to a picture that keeps its values; see `raster_of`."""
    if not isinstance(image, np.ndarray) or (
        image.dtype == np.uint8 and image.ndim == 2
    ):
        return as_rgb(image)
    values = image[..., None] if image.ndim == 2 else image
    if values.ndim != 3 or values.dtype.kind not in "uif" or values.size == 0:
        raise ConfigError(
            "An image array must be numbers [height, width, channels] or [height, "
            f"width]: got {image.dtype} {list(image.shape)}. Convert it first."
        )
    raster = Raster(values=values, container=container_range(values))
    return attach_raster(raster.picture(), raster)


def as_rgb(image: Readable) -> Image.Image:
    """Convert a path, bytes, Pillow image or uint8 array to an RGB Pillow image."""
    if isinstance(image, Image.Image):
        return to_rgb(image).image
    if isinstance(image, np.ndarray):
        is_gray = image.ndim == 2
        is_color = image.ndim == 3 and image.shape[2] == 3
        if image.dtype != np.uint8 or not (is_gray or is_color) or image.size == 0:
            raise ConfigError(
                "An image array must be uint8 [height, width, 3] or [height, width]: "
                f"got {image.dtype} {list(image.shape)}. Convert it first."
            )
        return to_rgb(Image.fromarray(np.ascontiguousarray(image))).image
    return decode(Path(image) if isinstance(image, str) else image).image
