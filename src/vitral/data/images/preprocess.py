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
from vitral.data.images.geometry import CropBox, Geometry, Size
from vitral.errors import ConfigError
from vitral.validation import Checks, check_fields

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Readable = str | Path | bytes | Image.Image | np.ndarray
"""A path, the bytes of a file, a Pillow image, or a uint8 array."""

_PILLOW_FILTER = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


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
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of red, green, blue on the 0..1 scale."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of red, green, blue on the 0..1 scale."""

    CHECKS: ClassVar[Checks] = {
        "image_size": (
            lambda size: len(size) == 2 and all(side >= 1 for side in size),
            "two positive numbers (height, width)",
        ),
        "resize": (lambda name: name in ("squash", "crop"), "'squash' or 'crop'"),
        "crop_fraction": (lambda share: 0 < share <= 1, "above 0 and at most 1"),
        "interpolation": (
            lambda name: name in _PILLOW_FILTER,
            "'nearest', 'bilinear' or 'bicubic'",
        ),
        "antialias": (lambda flag: isinstance(flag, bool), "true or false"),
        "mean": (
            lambda mean: len(mean) == 3 and all(map(math.isfinite, mean)),
            "three finite numbers",
        ),
        "std": (
            lambda std: len(std) == 3 and all(0 < value < math.inf for value in std),
            "three positive numbers",
        ),
    }
    """A predicate for each field, in order, and what it requires."""

    def __post_init__(self) -> None:
        check_fields(type(self), asdict(self), self.CHECKS)

    def __call__(self, image: Readable) -> Float[Tensor, "3 height width"]:
        """Decode if needed, resize, crop and normalise one image.

        Args:
            image: a path, the bytes of a file, a Pillow image of any mode, or a uint8
                array [height, width, 3] or [height, width].

        Raises:
            ImageError: the file cannot be decoded.
            ConfigError: the array is not uint8 or has another shape.
        """
        rgb = as_rgb(image)
        if self.antialias:
            values = uint8.to_planes(self.resize_and_crop_image(rgb))
            return uint8.normalize(values, self.mean, self.std)
        return self.normalize(self.resize_and_crop(rgb))

    def resize_and_crop(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """Return the RGB image at the final size, values 0..255, not normalised."""
        size = self.size_before_crop(Size(image.height, image.width))
        pixels = self.resample(image, size)
        window = self._center_window(size)
        return pixels[:, window.top : window.bottom, window.left : window.right]

    def resize_and_crop_image(self, image: Image.Image) -> Image.Image:
        """Return `resize_and_crop` as a Pillow image; requires `antialias`."""
        size = self.size_before_crop(Size(image.height, image.width))
        scaled = self.resample_image(image, size)
        if size == self.image_size:
            return scaled
        window = self._center_window(size)
        return scaled.crop((window.left, window.top, window.right, window.bottom))

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
        self, image: Image.Image, size: Size
    ) -> Float[Tensor, "3 height width"]:
        """Resize an RGB image with this specification's filter; values 0..255."""
        if self.antialias or (image.height, image.width) == size:
            return uint8.to_planes(self.resample_image(image, size)).float()
        if self.interpolation == "nearest":
            mode, align_corners = "nearest-exact", None
        else:
            mode, align_corners = self.interpolation, False
        pixels = F.interpolate(
            uint8.to_planes(image).float()[None],
            size=size,
            mode=mode,
            align_corners=align_corners,
        )[0]
        # Bicubic overshoots; Pillow's 8-bit result is limited in the same way.
        return pixels.clamp_(0, 255)

    def resample_image(self, image: Image.Image, size: Size) -> Image.Image:
        """Resize an RGB image with Pillow: low-passed, 8-bit."""
        if (image.height, image.width) == size:
            return image
        method = _PILLOW_FILTER[self.interpolation]
        return image.resize((size.width, size.height), method)

    def normalize(
        self, pixels: Shaped[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch 3 height width"]:
        """Map pixels 0..255 (uint8 or float) to the model's scale in float32."""
        mean, std = self._statistics()
        # In place on the new tensor: the same operations in half the time.
        return (pixels.float() / 255).sub_(mean).div_(std)

    def denormalize(
        self, image: Float[Tensor, "*batch 3 height width"]
    ) -> UInt8[Tensor, "*batch 3 height width"]:
        """Undo `normalize` for display; exact for every 8-bit value."""
        mean, std = self._statistics()
        pixels = (image.float().cpu() * std + mean) * 255
        return pixels.round().clamp(0, 255).to(torch.uint8)

    @property
    def hash(self) -> str:
        """Return 16 hexadecimal digits that change with any field."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `parse_fields` reads them back."""
        # 0 and 0.0 are the same mean and must have the same hash.
        return asdict(self) | {
            "image_size": list(self.image_size),
            "crop_fraction": float(self.crop_fraction),
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
        }

    @classmethod
    def parse_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of JSON in the types of the fields, checked.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        plain = {name: _to_field_value(name, value) for name, value in values.items()}
        check_fields(cls, plain, cls.CHECKS)
        return plain

    def _center_window(self, size: Size) -> CropBox:
        height, width = self.image_size
        top, left = round((size.height - height) / 2), round((size.width - width) / 2)
        return CropBox(top, left, top + height, left + width)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, dtype=torch.float32)[:, None, None]
        return mean, torch.tensor(self.std, dtype=torch.float32)[:, None, None]


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


def _to_field_value(name: str, value: Any) -> Any:
    """Convert JSON's lists and integers to the types of the field."""
    if name in ("image_size", "mean", "std") and isinstance(value, list | tuple):
        if name == "image_size":
            return tuple(value)
        return tuple(float(v) if isinstance(v, int) else v for v in value)
    if name == "crop_fraction" and isinstance(value, int):
        return float(value)
    return value
