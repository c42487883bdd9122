"""Nested, stratified subsets of a training set, and image tables of them.

Each subset is a prefix of one random order that spreads the images of a class evenly.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vitral.atomic_io import write_atomic
from vitral.data import Dataset, Example
from vitral.errors import ConfigError, DataError

MIN_PER_CLASS = 2
"""Images of each class in the smallest subset."""
MIN_FRACTION = 1 / 32
"""Fraction of the images in the smallest subset, if the classes have enough."""
DEFAULT_SIZES = 6
MIN_SIZES = 4
"""A curve has three parameters; the fourth size tests its fit."""
MIN_SIZE_RATIO = 8
"""Smallest ratio of all images to the smallest subset: less shows no curve."""


def nested_order(
    labels: Int[np.ndarray, " images"], seed: int
) -> Int[np.ndarray, " images"]:
    """Return row indices in an order whose every prefix is stratified.

    With `n` images in all and K classes, of which one has `k`, a prefix of length m
    holds m * k / n of it, up to (K * k / n + 1) / 2.

    Args:
        labels: class indices.
        seed: another seed is another order.
    """
    generator = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    # Ties, between classes of one size, must not always go to the same class.
    return np.lexsort((generator.random(len(labels)), position))


def subset_sizes(
    labels: Int[np.ndarray, " images"],
    classes: Sequence[str],
    fractions: Sequence[float] = (),
) -> tuple[int, ...]:
    """Return the sizes of the subsets, rising.

    Args:
        classes: names, for the errors; a label is an index into them.
        fractions: of the images; the full set is added. Empty: six sizes in equal
            ratios, the smallest with two images of each class or more.

    Raises:
        ConfigError: a fraction is not in (0, 1], or there are fewer than four sizes.
        DataError: one class only, or one with too few images for these sizes.
    """
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        name = classes[present[0]] if len(present) else "none"
        raise DataError(
            f"All training images are of one class ({name}): there is nothing to tell "
            "apart. Check that the labels were read."
        )
    images, rarest = len(labels), int(counts.argmin())
    name, fewest = classes[present[rarest]], int(counts[rarest])
    if fewest < MIN_PER_CLASS:
        raise DataError(
            f"The class {name} has {fewest} training image: a subset needs "
            f"{MIN_PER_CLASS} of each. Add images of it, or leave the class out."
        )
    min_size = _min_prefix_length(labels)
    if not fractions:
        if images < MIN_SIZE_RATIO * min_size:
            raise DataError(
                f"The class {name} has too few training images ({fewest}) for a "
                f"curve: its {MIN_PER_CLASS} are first together in a subset of "
                f"{min_size} of all {images}, and the whole must be {MIN_SIZE_RATIO} "
                "times the smallest subset. Add images of it, or leave the class out."
            )
        start = max(MIN_FRACTION * images, min_size)
        sizes = np.geomspace(start, images, DEFAULT_SIZES)
    else:
        if min(fractions) <= 0 or max(fractions) > 1:
            raise ConfigError(
                "`fractions` must be shares of the training images, above 0 and at "
                f"most 1: got {', '.join(f'{share:g}' for share in fractions)}."
            )
        sizes = np.array([*fractions, 1.0]) * images
    rounded = tuple(int(size) for size in np.unique(np.rint(sizes).astype(int)))
    if len(rounded) < MIN_SIZES:
        raise ConfigError(
            f"A curve needs {MIN_SIZES} sizes: got {len(rounded)} ("
            f"{', '.join(map(str, rounded))} images). Give more `fractions`."
        )
    if rounded[0] < min_size:
        raise DataError(
            f"The smallest subset has {rounded[0]} of {images} images, and the class "
            f"{name} with {fewest} of them needs {min_size} to have {MIN_PER_CLASS} in "
            f"it. Begin with a fraction of {min_size / images:.3f} or more."
        )
    return rounded


def _min_prefix_length(labels: Int[np.ndarray, " images"]) -> int:
    """Return the prefix length from which every order has enough of each class."""
    counts = np.unique(labels, return_counts=True)[1]
    last = (MIN_PER_CLASS - 0.5) / counts.min()
    # Images at the very position of the last one needed may come before it.
    counts_before = np.floor(last * counts + 0.5 + 1e-9).astype(int)
    return int(np.minimum(counts_before, counts).sum())


def write_image_table(
    folder: Path, name: str, dataset: Dataset, parts: Mapping[str, Sequence[Example]]
) -> Path:
    """Write a table and those of its images that are missing; return the table's path.

    Args:
        folder: gets `images/` and `NAME.csv`.
        parts: the examples of each split.
    """
    index = {example.id: i for i, example in enumerate(dataset.examples)}
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    for split, examples in parts.items():
        for example in sorted(examples, key=lambda example: index[example.id]):
            file = images / f"{index[example.id]:06}.png"
            if not file.is_file():
                png = io.BytesIO()
                dataset.read(example).save(png, format="PNG")
                write_atomic(file, png.getvalue())
            label = dataset.classes[example.label[0]]
            writer.writerow([f"images/{file.name}", label, split])
    write_atomic(folder / f"{name}.csv", text.getvalue())
    return folder / f"{name}.csv"
