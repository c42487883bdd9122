"""Decode, resize and normalize images."""

from vitral.data.images import uint8
from vitral.data.images.affine import Warp, warp_image
from vitral.data.images.decode import (
    DecodedImage,
    count_pixels,
    decode,
    one_line,
    to_rgb,
)
from vitral.data.images.formats import (
    IMAGE_EXTENSIONS,
    begins_as_image,
    reason_unread,
)
from vitral.data.images.geometry import (
    SYMMETRIES,
    CropBox,
    Geometry,
    Size,
    drop_vanished,
    turn_size,
)
from vitral.data.images.preprocess import ImagePreprocess, Readable, as_rgb
from vitral.data.images.raster import (
    Raster,
    RasterImage,
    ValueRange,
    attach_raster,
    raster_of,
)
from vitral.data.images.uint8 import Uint8Transform, all_uint8, normalize_batch
from vitral.data.images.window import is_giant

__all__ = [
    "IMAGE_EXTENSIONS",
    "SYMMETRIES",
    "CropBox",
    "DecodedImage",
    "Geometry",
    "ImagePreprocess",
    "Raster",
    "RasterImage",
    "Readable",
    "Size",
    "Uint8Transform",
    "ValueRange",
    "Warp",
    "all_uint8",
    "as_rgb",
    "attach_raster",
    "begins_as_image",
    "count_pixels",
    "decode",
    "drop_vanished",
    "is_giant",
    "normalize_batch",
    "one_line",
    "raster_of",
    "reason_unread",
    "to_rgb",
    "turn_size",
    "uint8",
    "warp_image",
]
