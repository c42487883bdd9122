"""Image files to pixels: decode, resize, normalize."""

from vitral.data.images import uint8
from vitral.data.images.decode import EXTENSIONS, Decoded, decode, to_rgb
from vitral.data.images.preprocess import Preprocess, Size, as_rgb
from vitral.data.images.uint8 import EightBit, are_pixels, stacked

__all__ = [
    "EXTENSIONS",
    "Decoded",
    "EightBit",
    "Preprocess",
    "Size",
    "are_pixels",
    "as_rgb",
    "decode",
    "stacked",
    "to_rgb",
    "uint8",
]
