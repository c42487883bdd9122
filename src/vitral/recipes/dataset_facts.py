"""Summary of a data set for recipes: number and size of its images or clips."""

import statistics
from dataclasses import dataclass
from typing import Literal

import numpy as np

import vitral.data
from vitral.errors import DataError, ImageError

SAMPLE = 64
"""Images that are opened to measure the median size."""


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Facts about a data set that decide a recipe's settings."""

    num_images: int
    num_classes: int
    height: int
    """Median, in pixels."""
    width: int
    grey: bool
    """True if no opened image has colour."""
    multi_label: bool
    kind: Literal["images", "clips"]


def summarize_dataset(
    data: str, kind: Literal["auto", "images", "clips"] = "auto"
) -> DatasetSummary:
    """List the examples of `data` and open a few of them.

    Args:
        kind: as `vitral.data.open` takes it.

    Raises:
        DataError: none of the images that were tried can be decoded.
    """
    dataset = vitral.data.open(data, kind=kind)
    examples = dataset.examples
    sizes: list[tuple[int, int]] = []
    grey = True
    for example in examples[:: max(1, len(examples) // SAMPLE)]:
        try:
            decoded = dataset.decode(example)
        except ImageError:
            continue
        image = decoded.image
        sizes.append((image.height, image.width // decoded.frames))
        pixels = np.asarray(image)
        grey = grey and bool((pixels == pixels[..., :1]).all())
    if not sizes:
        raise DataError(
            f"None of the {dataset.kind} of {data} that were tried can be decoded. Run "
            f"`vitral data check {data}` to see each with its reason."
        )
    return DatasetSummary(
        num_images=len(examples),
        num_classes=len(dataset.classes),
        height=round(statistics.median(height for height, _ in sizes)),
        width=round(statistics.median(width for _, width in sizes)),
        grey=grey,
        multi_label=dataset.multi_label,
        kind=dataset.kind,
    )
