"""Augment a training image as a pure function of (seed, view, id).

The inception crop follows arXiv 2010.11929 (official code). RandAugment (1909.13719),
AutoAugment (1805.09501), colour jitter and erasing (1708.04896) are torchvision's.
Cropping is hand-written: transforms.v2 draws from the global generator.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from vitral.data.augmentation.affine import shift_rotate
from vitral.data.augmentation.rand_augment_tf import rand_augment
from vitral.data.images import Size, uint8
from vitral.data.preprocess import Preprocess
from vitral.data.rng import fork_torch_rng, generator_for, seed_for
from vitral.errors import ConfigError

CROP_ASPECT = (3 / 4, 4 / 3)
"""Range of width / height of an inception crop, in source pixels."""
CROP_TRIES = 100  # as in the official ViT code; torchvision tries 10
_FILL = [128, 128, 128]  # grey of the original RandAugment

# The eight symmetries of a square; None is the identity.
SYMMETRIES = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random operations on a training image, in the order they are applied."""

    dihedral: bool = False
    """Rotate and mirror: view v shows symmetry (hash + v) % 8, so 8 views show all
    eight; replaces `flip`. For images without an "up"."""
    crop: Literal["none", "inception", "window"] = "none"
    """"inception" cuts a random rectangle and resizes it to the image size. "window"
    resizes the image so that the image size is the smaller `crop_area` of it, and cuts
    a random window. "none" resizes as in evaluation."""
    crop_area: tuple[float, float] = (0.05, 1.0)
    """Smallest and largest fraction of the area that a crop keeps."""
    flip: float = 0.5
    """Probability of mirroring left-right; 0 disables it, as digits and text need."""
    shift: float = 0.0
    """Largest shift as a share of height and width, edges repeated; 0 disables it."""
    rotate: float = 0.0
    """Largest rotation in degrees, edges repeated; 0 disables it."""
    rand_augment: int = 0
    """Number of RandAugment operations per image; 0 disables it."""
    rand_augment_magnitude: int = 9
    """Strength, 0..30. For `rand` on torchvision's scale, where 30 is the paper's 10;
    for `rand_original` as in the papers, AugReg up to 20."""
    policy: Literal["rand", "rand_original", "auto"] = "rand"
    """"rand" is torchvision's RandAugment. "rand_original" is its first release, used
    by AugReg, with shifts and holes in pixels of a 224 image. "auto" is AutoAugment's
    ImageNet policy, for which `rand_augment` stays 0."""
    color_jitter: float = 0.0
    """Factor range 1 +- this for brightness, contrast, saturation; 0 disables it."""
    random_erasing: float = 0.0
    """Probability of replacing a rectangle by the mean colour; 0 disables it."""
    repeats: int = 1
    """Variations of each example in an epoch; the number of batches stays."""
    views: int = 0
    """Number V of views of an image that repeat; 0 draws a new view each epoch."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        checks = (
            (
                "crop",
                self.crop in ("none", "inception", "window"),
                "'none', 'inception' or 'window'",
            ),
            ("crop_area", 0 < low <= high <= 1, "0 < smallest <= largest <= 1"),
            ("flip", 0 <= self.flip <= 1, "a probability"),
            ("shift", 0 <= self.shift < 1, "a share from 0 to below 1"),
            ("rotate", 0 <= self.rotate <= 180, "0 to 180 degrees"),
            ("rand_augment", self.rand_augment >= 0, "a number of operations"),
            (
                "rand_augment_magnitude",
                0 <= self.rand_augment_magnitude <= 30,
                "0 to 30",
            ),
            (
                "policy",
                self.policy in ("rand", "rand_original", "auto"),
                "'rand', 'rand_original' or 'auto'",
            ),
            ("color_jitter", 0 <= self.color_jitter < math.inf, "0 or more"),
            ("random_erasing", 0 <= self.random_erasing <= 1, "a probability"),
            ("repeats", self.repeats >= 1, "a number of variations, 1 or more"),
            ("views", self.views >= 0, "0 or a number of views"),
        )
        for name, valid, expected in checks:
            if not valid:
                value = getattr(self, name)
                raise ConfigError(f"`augment.{name}` must be {expected}: got {value}.")
        if self.policy == "auto" and self.rand_augment:
            raise ConfigError(
                "`augment.policy=auto` is AutoAugment, which draws its own number of "
                f"operations: set `augment.rand_augment` to 0, got {self.rand_augment}."
            )

    @property
    def uses_torchvision(self) -> bool:
        """Return whether colours are varied or a part is erased."""
        return bool(self.changes_color or self.random_erasing)

    @property
    def changes_color(self) -> bool:
        """Return whether a policy or the colour jitter changes the image."""
        operations = self.rand_augment or self.policy == "auto"
        return bool(operations or self.color_jitter)

    def view(self, draw: int) -> int:
        """Return the view of a variation by its index."""
        return draw % self.views if self.views else draw


class CropBox(NamedTuple):
    """A rectangle in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Transform for training: vary an image, then preprocess it."""

    config: AugmentConfig
    preprocess: Preprocess
    seed: int = 0

    @property
    def concurrent(self) -> bool:
        """Return whether threads may run at once: torchvision's operations draw from
        the generator that threads share."""
        return not self.config.uses_torchvision

    def __call__(
        self, image: Image.Image, example_id: str, draw: int
    ) -> Float[Tensor, "3 height width"]:
        """Vary and preprocess one RGB image without changing global random state."""
        values = self.pixels(image, example_id, draw)
        if values is not None:
            return uint8.normalize(values, self.preprocess.mean, self.preprocess.std)
        config = self.config
        view, generator, pixels = self._crop_and_flip(image, example_id, draw)
        pixels = shift_rotate(pixels.float(), config.shift, config.rotate, generator)
        if not config.uses_torchvision:
            return self.preprocess.normalize(pixels)
        from torchvision.transforms import v2  # slow to import, and not always needed

        with fork_torch_rng(seed_for("transforms", self.seed, view, example_id)):
            if config.changes_color:
                # On 8-bit Pillow images, for which these operations were defined, and
                # without sums whose rounding depends on the number of threads.
                rounded = pixels.round().to(torch.uint8)
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
        is_uint8 = self.preprocess.antialias
        if not is_uint8 or config.shift or config.rotate or config.random_erasing:
            return None
        view, generator, pixels = self._crop_and_flip(image, example_id, draw)
        if not config.changes_color:
            return pixels
        with fork_torch_rng(seed_for("transforms", self.seed, view, example_id)):
            return self._apply_color_ops(pixels, generator)

    def _crop_and_flip(
        self, image: Image.Image, example_id: str, draw: int
    ) -> tuple[int, np.random.Generator, Tensor]:
        """Return view, generator, and the crop in the symmetry of the view."""
        view = self.config.view(draw)
        generator = generator_for("augment", self.seed, view, example_id)
        if self.config.dihedral:
            symmetry = SYMMETRIES[self.symmetry(example_id, view)]
            image = image if symmetry is None else image.transpose(symmetry)
        pixels = self._crop(image, generator)
        if not self.config.dihedral and generator.random() < self.config.flip:
            pixels = pixels.flip(-1)
        return view, generator, pixels

    def symmetry(self, example_id: str, view: int) -> int:
        """Return the index into SYMMETRIES of a view of an example."""
        return (seed_for("dihedral", self.seed, example_id) + view) % 8

    def _crop(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Shaped[Tensor, "3 height width"]:
        """Return the crop at the image size: 8-bit with antialias, else float."""
        preprocess, size = self.preprocess, Size(*self.preprocess.image_size)
        source = Size(image.height, image.width)
        if self.config.crop == "none":
            if preprocess.antialias:
                return uint8.to_planes(preprocess.resize_and_crop_image(image))
            return preprocess.resize_and_crop(image)
        if self.config.crop == "window":
            share = math.sqrt(self.config.crop_area[0])
            larger = Size(round(size.height / share), round(size.width / share))
            box = random_window(larger, size, generator)
            pixels = self._resize_box(image, larger, CropBox(0, 0, *source))
            return pixels[:, box.top : box.bottom, box.left : box.right]
        box = inception_crop(source, self.config, generator)
        return self._resize_box(image, size, box)

    def _resize_box(
        self, image: Image.Image, size: Size, box: CropBox
    ) -> Shaped[Tensor, "3 height width"]:
        preprocess = self.preprocess
        inside = Size(box.bottom - box.top, box.right - box.left)
        is_uint8, interpolation = preprocess.antialias, preprocess.interpolation
        if is_uint8 and interpolation != "nearest" and inside != size:
            return uint8.resize(image, size, interpolation, box)
        part = image.crop((box.left, box.top, box.right, box.bottom))
        if is_uint8:
            return uint8.to_planes(preprocess.resample_image(part, size))
        return preprocess.resample(part, size)

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


def random_window(source: Size, size: Size, generator: np.random.Generator) -> CropBox:
    """Draw a rectangle of this size at a uniform position."""
    top = int(generator.integers(source.height - size.height + 1))
    left = int(generator.integers(source.width - size.width + 1))
    return CropBox(top, left, top + size.height, left + size.width)


def inception_crop(
    source: Size, config: AugmentConfig, generator: np.random.Generator
) -> CropBox:
    """Draw a rectangle with uniform area, aspect ratio and position.

    After 100 draws that do not fit, return the full image.
    """
    total = source.height * source.width
    low, high = config.crop_area
    narrow, wide = CROP_ASPECT
    for _ in range(CROP_TRIES):
        area = generator.uniform(low, high) * total
        aspect = generator.uniform(narrow, wide)
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        fits = 1 <= height <= source.height and 1 <= width <= source.width
        # Rounding to pixels can leave the ranges of the draws.
        if (
            fits
            and low * total <= height * width <= high * total
            and narrow * height <= width <= wide * height
        ):
            top = int(generator.integers(source.height - height + 1))
            left = int(generator.integers(source.width - width + 1))
            return CropBox(top, left, top + height, left + width)
    return CropBox(0, 0, source.height, source.width)
