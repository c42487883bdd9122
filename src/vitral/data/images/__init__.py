"""Decode, resize and normalize images."""

from vitral.data.images import uint8
from vitral.data.images.decode import (
    IMAGE_EXTENSIONS,
    DecodedImage,
    decode,
    one_line,
    to_rgb,
)
from vitral.data.images.preprocess import ImagePreprocess, Readable, Size, as_rgb
from vitral.data.images.uint8 import Uint8Transform, all_uint8, normalize_batch

__all__ = [
    "IMAGE_EXTENSIONS",
    "DecodedImage",
    "ImagePreprocess",
    "Readable",
    "Size",
    "Uint8Transform",
    "all_uint8",
    "as_rgb",
    "decode",
    "normalize_batch",
    "one_line",
    "to_rgb",
    "uint8",
]
