"""Transforms of opened images to pixels, and what they say of their geometry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vitral.data.images import Geometry, Size, Uint8Transform, uint8
from vitral.data.preprocess import Preprocess
from vitral.errors import ConfigError

Transform = Callable[[Any, str, int], Tensor]
"""From an RGB image (or a Clip), its example's id and the index of its variation to
pixels. The index is the epoch, unless an epoch shows several variations."""


@runtime_checkable
class HasGeometry(Protocol):
    """A transform that can say how it moves the pixels, for targets that move."""

    def geometry(self, opened: Any, example_id: str, draw: int) -> Geometry: ...


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Transform for evaluation: the preprocess, without randomness."""

    concurrent: ClassVar[bool] = True
    preprocess: Preprocess

    def __call__(
        self, image: Image.Image, example_id: str, draw: int
    ) -> Float[Tensor, "channels height width"]:
        return self.preprocess(image)

    def geometry(self, image: Image.Image, example_id: str, draw: int) -> Geometry:
        """Return what moves the pixels, and so the target."""
        return self.preprocess.geometry(Size(image.height, image.width))

    def pixels(
        self, image: Image.Image, example_id: str, draw: int
    ) -> UInt8[Tensor, "3 height width"] | None:
        """Return the image before normalisation; None if resizing leaves 8 bits."""
        if not (self.preprocess.antialias and self.preprocess.is_rgb8):
            return None
        return uint8.to_planes(self.preprocess.resize_and_crop_image(image))


def get_geometry(
    transform: Transform, opened: Any, example_id: str, draw: int
) -> Geometry:
    """Return how a transform moves the pixels of one variation.

    Raises:
        ConfigError: the transform does not say it.
    """
    if not isinstance(transform, HasGeometry):
        name = getattr(transform, "__name__", type(transform).__name__)
        raise ConfigError(
            f"The targets move with the picture, and the transform {name} does not say "
            "how: give it a method `geometry` with the arguments of its call."
        )
    return transform.geometry(opened, example_id, draw)


def defer_normalize(transform: Transform) -> Transform:
    """Return a transform that stops before normalisation where images have 8 bits."""
    if not isinstance(transform, Uint8Transform):
        return transform

    def vary(opened: Any, example_id: str, draw: int) -> Tensor:
        pixels = transform.pixels(opened, example_id, draw)
        return transform(opened, example_id, draw) if pixels is None else pixels

    return vary
