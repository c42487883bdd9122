"""Augment a training image as a pure function of (seed, view, id).

RandAugment (1909.13719), AutoAugment (1805.09501), colour jitter and erasing
(1708.04896) are torchvision's. They change the picture only; what moves its pixels is a
`Geometry`, which moves a target as well.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from vitral.data.augmentation.config import AugmentConfig
from vitral.data.augmentation.draw import draw_geometry
from vitral.data.augmentation.rand_augment_tf import rand_augment
from vitral.data.images import (
    SYMMETRIES,
    CropBox,
    Geometry,
    Size,
    is_giant,
    raster_of,
    uint8,
    warp_image,
)
from vitral.data.preprocess import Preprocess
from vitral.data.rng import fork_torch_rng, generator_for, seed_for
from vitral.errors import ConfigError

_FILL = [128, 128, 128]  # grey of the original RandAugment


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Transform for training: vary an image, then preprocess it."""

    config: AugmentConfig
    preprocess: Preprocess
    seed: int = 0

    def __post_init__(self) -> None:
        channels = self.preprocess.channels
        if self.config.changes_color and channels != 3:
            raise ConfigError(
                "Colour operations change red, green and blue, and the model takes "
                f"{channels} channel(s): set `rand_augment=0` and `color_jitter=0` and "
                "`policy=rand`, which leaves them out."
            )

    @property
    def concurrent(self) -> bool:
        """Return whether threads may run at once: torchvision's operations draw from
        the generator that threads share."""
        return not self.config.uses_torchvision

    def __call__(
        self, image: Image.Image, example_id: str, draw: int
    ) -> Float[Tensor, "channels height width"]:
        """Vary and preprocess one RGB image without changing global random state."""
        values = self.pixels(image, example_id, draw)
        if values is not None:
            return uint8.normalize(values, self.preprocess.mean, self.preprocess.std)
        config = self.config
        geometry, generator = self._draw(image, example_id, draw)
        pixels = self._crop_and_flip(image, geometry).float()
        if not geometry.warp.is_identity:
            pixels = warp_image(pixels, geometry.warp)
        if not config.uses_torchvision:
            return self.preprocess.normalize(pixels)
        from torchvision.transforms import v2  # slow to import, and not always needed

        with self._torch_rng(example_id, draw):
            if config.changes_color:
                # On 8-bit Pillow images, for which these operations were defined, and
                # without sums whose rounding depends on the number of threads.
                rounded = pixels.round().clamp(0, 255).to(torch.uint8)
                pixels = self._apply_color_ops(rounded, generator).float()
            result = self.preprocess.normalize(pixels)
            if config.random_erasing:
                return v2.RandomErasing(p=config.random_erasing, value=0)(result)
            return result

    def pixels(
        self, image: Image.Image, example_id: str, draw: int
    ) -> UInt8[Tensor, "3 height width"] | None:
        """Return the varied image before normalisation; None if a step is not 8-bit."""
        config = self.config
        is_uint8 = self.preprocess.antialias and self.preprocess.is_rgb8
        if not is_uint8 or config.warps or config.random_erasing:
            return None
        geometry, generator = self._draw(image, example_id, draw)
        pixels = self._crop_and_flip(image, geometry)
        if not config.changes_color:
            return pixels
        with self._torch_rng(example_id, draw):
            return self._apply_color_ops(pixels, generator)

    def geometry(self, image: Image.Image, example_id: str, draw: int) -> Geometry:
        """Return what moves the pixels of this view, and so its target."""
        return self._draw(image, example_id, draw)[0]

    def _draw(
        self, image: Image.Image, example_id: str, draw: int
    ) -> tuple[Geometry, np.random.Generator]:
        """Return the geometry, and the generator of what is drawn after it."""
        view = self.config.view(draw)
        generator = generator_for("augment", self.seed, view, example_id)
        geometry = draw_geometry(
            self.config,
            self.preprocess,
            Size(image.height, image.width),
            self.symmetry(example_id, view) if self.config.dihedral else 0,
            generator,
        )
        return geometry, generator

    def _torch_rng(self, example_id: str, draw: int) -> AbstractContextManager[None]:
        view = self.config.view(draw)
        return fork_torch_rng(seed_for("transforms", self.seed, view, example_id))

    def _crop_and_flip(
        self, image: Image.Image, geometry: Geometry
    ) -> Shaped[Tensor, "channels height width"]:
        """Return the crop in the symmetry of the view."""
        if self.preprocess.is_rgb8:
            symmetry = SYMMETRIES[geometry.symmetry]
            image = image if symmetry is None else image.transpose(symmetry)
            pixels = self._crop(image, geometry)
        else:
            pixels = self._crop_planes(image, geometry)
        return pixels.flip(-1) if geometry.flip else pixels

    def symmetry(self, example_id: str, view: int) -> int:
        """Return the index into SYMMETRIES of a view of an example."""
        return (seed_for("dihedral", self.seed, example_id) + view) % 8

    def _crop(
        self, image: Image.Image, geometry: Geometry
    ) -> Shaped[Tensor, "3 height width"]:
        """Return the crop at the image size: 8-bit with antialias, else float."""
        preprocess = self.preprocess
        if self.config.crop == "none":
            if preprocess.antialias:
                return uint8.to_planes(preprocess.resize_and_crop_image(image))
            return preprocess.resize_and_crop(image)
        return self._resize_box(image, geometry.resized, geometry.box, geometry.window)

    def _crop_planes(
        self, image: Image.Image, geometry: Geometry
    ) -> Float[Tensor, "channels height width"]:
        """Return the crop of values that are not 8 bits of red, green and blue."""
        preprocess, steps, box = self.preprocess, geometry.steps, geometry.box
        planes = raster_of(image).planes(preprocess.channels, preprocess.value_range)
        planes = planes.transpose(-1, -2) if steps.transpose else planes
        planes = planes.flip([-2] * steps.top_bottom + [-1] * steps.left_right)
        part = planes[:, box.top : box.bottom, box.left : box.right].contiguous()
        return preprocess.resample_planes(part, geometry.resized, geometry.window)

    def _resize_box(
        self, image: Image.Image, size: Size, box: CropBox, window: CropBox
    ) -> Shaped[Tensor, "3 height width"]:
        preprocess = self.preprocess
        is_uint8, interpolation = preprocess.antialias, preprocess.interpolation
        by_torch = box.size != size and not is_giant(box.size, size, window)
        if is_uint8 and interpolation != "nearest" and by_torch:
            pixels = uint8.resize(image, size, interpolation, box)
            return pixels[:, window.top : window.bottom, window.left : window.right]
        part = image.crop((box.left, box.top, box.right, box.bottom))
        if is_uint8:
            return uint8.to_planes(preprocess.resample_image(part, size, window))
        return preprocess.resample(part, size, window)

    def _apply_color_ops(
        self,
        pixels: UInt8[Tensor, "3 height width"],
        generator: np.random.Generator,
    ) -> UInt8[Tensor, "3 height width"]:
        from torchvision.transforms import v2

        config = self.config
        operations: list[torch.nn.Module] = []
        if config.color_jitter:
            jitter = config.color_jitter
            operations.append(
                v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter)
            )
        if config.policy == "auto":
            operations.append(v2.AutoAugment(fill=_FILL))
        num_original = config.rand_augment if config.policy == "rand_original" else 0
        if config.rand_augment and not num_original:
            operations.append(
                v2.RandAugment(
                    num_ops=config.rand_augment,
                    magnitude=config.rand_augment_magnitude,
                    fill=_FILL,
                )
            )
        image = uint8.to_image(pixels)
        for operation in operations:
            image = operation(image)
        if num_original:
            magnitude = config.rand_augment_magnitude
            array = rand_augment(np.array(image), num_original, magnitude, generator)
            image = Image.fromarray(array)
        return uint8.to_planes(image)
