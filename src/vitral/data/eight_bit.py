"""Images that stay 8 bits a channel until their place in a batch is written.

Resizing with Pillow and its operations on colours give whole numbers of 0..255. Made
float only once, in the batch, they cost a quarter of the memory traffic; the bits are
those of converting, stacking and normalising one after the other.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

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
        np.divide(plane, _LEVELS, out=plane)
        np.subtract(plane, np.float32(mean[channel]), out=plane)
        np.divide(plane, np.float32(std[channel]), out=plane)


def _fill(plane: np.ndarray, image: Image.Image, channel: int) -> None:
    # Pillow takes a channel out quicker than NumPy parts interleaved ones.
    data = image.tobytes("raw", "RGB"[channel])
    np.copyto(plane, np.frombuffer(data, np.uint8).reshape(plane.shape))


def stacked(
    images: Sequence[Image.Image | Tensor],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    sent: bool,
) -> Tensor:
    """A batch of results, those that are images normalised.

    Args:
        sent: it goes to another process as it is.
    """
    first = images[0]
    pictures = [image for image in images if isinstance(image, Image.Image)]
    if not isinstance(first, Image.Image) or len(pictures) < len(images):
        return torch.stack(
            [
                normalised(image, mean, std)
                if isinstance(image, Image.Image)
                else image
                for image in images
            ]
        )
    batch = _empty((len(images), 3, first.height, first.width), sent)
    for row, image in zip(batch, pictures, strict=True):
        write(image, row, mean, std)
    return batch


def _empty(shape: tuple[int, ...], sent: bool) -> Tensor:
    """Memory for a batch; what a worker sends lies where the reader finds it."""
    if not sent or get_worker_info() is None:
        return torch.empty(shape)
    # As torch's own collate does: sending other memory copies it once more.
    storage = torch.UntypedStorage._new_shared(4 * math.prod(shape), device="cpu")
    return torch.empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]
