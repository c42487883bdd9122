"""Images as the model process gets them from the decoders."""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitral.data.images import Size


@dataclass(frozen=True, slots=True)
class DecodedInput:
    """One decoded and preprocessed image."""

    pixels: Tensor
    size: Size
    """Of the file."""
    notes: tuple[str, ...]
    wants: dict[str, Any]
    picture: Image.Image | None
    """The upright picture if it is to be drawn on."""


def read_images(
    slots: mmap.mmap,
    shape: Sequence[int],
    facts: Sequence[dict[str, Any]],
    content: bytearray,
) -> list[DecodedInput]:
    """Return the images of a batch.

    Args:
        shape: of an image as it enters the model.
        facts: slot, size, notes and wants of each, and whether its picture follows.
        content: pictures, red, green and blue of 8 bits.
    """
    offset, images = 0, []
    for fact in facts:
        values = np.frombuffer(slots, np.float32, math.prod(shape), fact["slot"])
        size, picture = Size(*fact["size"]), None
        if fact["picture"]:
            end = offset + 3 * size.height * size.width
            picture = Image.frombytes(
                "RGB", (size.width, size.height), bytes(content[offset:end])
            )
            offset = end
        pixels = torch.from_numpy(values.reshape(shape))
        notes = tuple(fact["notes"])
        images.append(DecodedInput(pixels, size, notes, fact["wants"], picture))
    return images
