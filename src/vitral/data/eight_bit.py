"""Images that stay 8 bits a channel until their place in a batch is written.

Resizing with Pillow and its operations on colours give whole numbers of 0..255. Made
float only once, in the batch, they cost a quarter of the memory traffic; the bits are
those of converting, stacking and normalising one after the other.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

_LEVELS = np.float32(255)


@runtime_checkable
class EightBit(Protocol):
    """A transform that can stop before the numbers become float."""

    preprocess: Any
    """Its `mean` and `std` make the result of the pixels."""

    def pixels(
        self, image: Image.Image, example_id: str, number: int
    ) -> Image.Image | None:
        """The RGB image that normalising would turn into the transform's result; None,
        before anything is drawn, where the result is no image of 8 bits."""


def floats(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """The values 0..255 of an RGB image."""
    result = torch.empty(3, image.height, image.width)
    for channel, plane in enumerate(result.numpy()):
        _fill(plane, image, channel)
    return result


def normalised(
    image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "3 height width"]:
    """(x / 255 - mean) / std of an RGB image in float32."""
    result = torch.empty(3, image.height, image.width)
    write(image, result, mean, std)
    return result


def write(
    image: Image.Image,
    into: Float[Tensor, "3 height width"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    """As `normalised`, into memory that is there."""
    # A channel at a time stays in the cache. torch rounds these operations alike.
    for channel, plane in enumerate(into.numpy()):
        _fill(plane, image, channel)
        _normalise(plane, mean[channel], std[channel])


def _normalise(plane: np.ndarray, mean: float, std: float) -> None:
    np.divide(plane, _LEVELS, out=plane)
    np.subtract(plane, np.float32(mean), out=plane)
    np.divide(plane, np.float32(std), out=plane)


def _fill(plane: np.ndarray, image: Image.Image, channel: int) -> None:
    # Pillow takes a channel out quicker than NumPy parts interleaved ones.
    data = image.tobytes("raw", "RGB"[channel])
    np.copyto(plane, np.frombuffer(data, np.uint8).reshape(plane.shape))


def stacked(
    images: Sequence[Image.Image | Tensor],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Tensor, "batch ..."]:
    """A batch of results, those that are images normalised."""
    if not are_pictures(images):
        return torch.stack(
            [
                normalised(image, mean, std)
                if isinstance(image, Image.Image)
                else image
                for image in images
            ]
        )
    batch = torch.empty(len(images), 3, images[0].height, images[0].width)
    for row, image in zip(batch, images, strict=True):
        write(image, row, mean, std)
    return batch


def are_pictures(
    images: Sequence[Image.Image | Tensor],
) -> TypeGuard[Sequence[Image.Image]]:
    """Whether all are 8-bit images of one size."""
    pictures = [image for image in images if isinstance(image, Image.Image)]
    sizes = {picture.size for picture in pictures}
    return len(pictures) == len(images) and len(sizes) == 1


def packed(images: Sequence[Image.Image]) -> UInt8[Tensor, "batch 3 height width"]:
    """The values 0..255, a quarter of what the float batch would send."""
    height, width = images[0].height, images[0].width
    data = bytearray().join(
        image.tobytes("raw", channel) for image in images for channel in "RGB"
    )
    values = torch.frombuffer(data, dtype=torch.uint8)
    return values.reshape(len(images), 3, height, width)


def unpacked(
    values: UInt8[Tensor, "batch 3 height width"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Tensor, "batch 3 height width"]:
    """What `stacked` gives of the images that were packed."""
    batch = torch.empty(values.shape)
    for row, image in zip(batch.numpy(), values.numpy(), strict=True):
        for channel, plane in enumerate(row):
            np.copyto(plane, image[channel])
            _normalise(plane, mean[channel], std[channel])
    return batch
