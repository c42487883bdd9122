"""Choose the image size at which the features of weights are computed."""

import logging
import math
import statistics

import vitral.models
from vitral.data import Dataset, Size
from vitral.errors import ConfigError, ImageError
from vitral.models import ModelConfig, ViTConfig

logger = logging.getLogger(__name__)

USUAL = 224
"""Pixels of a side that weights of a larger image size are not reduced below."""
SAMPLE = 16
"""Images that are opened to measure the median size."""


def choose_image_size(config: ModelConfig, dataset: Dataset) -> int | None:
    """Return a smaller side of a square image than the weights' own; None to keep it.

    A picture of 64 pixels that is drawn at 518 holds no more than at 224, and costs ten
    times as much. Said in the log.
    """
    height, width = config.image_hw
    if height != width or height <= USUAL or dataset.kind == "clips":
        return None
    if not isinstance(config, ViTConfig) or config.position.startswith("relative"):
        return None
    median = _median_size(dataset)
    if median is None:
        return None
    patch = math.lcm(*config.patch_hw)
    side = math.ceil(max(USUAL, *median) / patch) * patch
    if side >= height:
        return None
    try:
        vitral.models.replace_config(config, {"image_size": side})
    except ConfigError:
        return None
    logger.info(
        f"The images have {median.height} x {median.width} pixels (median), the "
        f"weights were trained at {height} x {width}: features are computed at {side} "
        f"x {side}. `--image-size {height}` takes the weights' own size."
    )
    return side


def _median_size(dataset: Dataset) -> Size | None:
    """Return the median height and width; None if no image can be decoded."""
    sizes = []
    for example in dataset.examples[:: max(1, len(dataset.examples) // SAMPLE)]:
        try:
            image = dataset.decode(example).image
        except ImageError:
            continue
        sizes.append((image.height, image.width))
    if not sizes:
        return None
    return Size(*(round(statistics.median(side)) for side in zip(*sizes, strict=True)))
