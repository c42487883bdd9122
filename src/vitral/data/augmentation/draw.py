"""Draw the geometry of a training image.

The inception crop follows arXiv 2010.11929 (official code). Hand-written:
transforms.v2 draws from the global generator.
"""

import math

import numpy as np

from vitral.data.augmentation.config import AugmentConfig
from vitral.data.images import (
    CropBox,
    Geometry,
    ImagePreprocess,
    Size,
    Warp,
    turn_size,
)

CROP_ASPECT = (3 / 4, 4 / 3)
"""Range of width / height of an inception crop, in source pixels."""
CROP_TRIES = 100  # as in the official ViT code; torchvision tries 10


def draw_geometry(
    config: AugmentConfig,
    preprocess: ImagePreprocess,
    source: Size,
    symmetry: int,
    generator: np.random.Generator,
) -> Geometry:
    """Draw crop, flip and warp, in this order.

    Args:
        source: of the upright original.
        symmetry: index into SYMMETRIES; 0 where the configuration has none.
    """
    size = Size(*preprocess.image_size)
    turned = turn_size(source, symmetry)
    if config.crop == "none":
        crop = preprocess.geometry(turned)
        box, resized, window = crop.box, crop.resized, crop.window
    elif config.crop == "window":
        share = math.sqrt(config.crop_area[0])
        resized = Size(round(size.height / share), round(size.width / share))
        box, window = CropBox(0, 0, *turned), random_window(resized, size, generator)
    else:
        box = inception_crop(turned, config, generator)
        resized, window = size, CropBox(0, 0, *size)
    flip = not config.dihedral and generator.random() < config.flip
    return Geometry(
        source=source,
        symmetry=symmetry,
        box=box,
        resized=resized,
        window=window,
        flip=flip,
        warp=_draw_warp(config, size, generator),
    )


def _draw_warp(
    config: AugmentConfig, size: Size, generator: np.random.Generator
) -> Warp:
    """Draw shift, rotation and zoom, in this order."""
    moves: dict[str, float] = {}
    if config.shift:
        moves["down"] = generator.uniform(-config.shift, config.shift) * size.height
        moves["right"] = generator.uniform(-config.shift, config.shift) * size.width
    if config.rotate:
        moves["degrees"] = float(generator.uniform(-config.rotate, config.rotate))
    if config.zoom:
        moves["zoom"] = math.exp(generator.uniform(-config.zoom, config.zoom))
    return Warp(**moves)


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
