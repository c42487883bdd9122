"""Readers of benchmarks whose files a user places: class folders, tables, TFRecords."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitral.data.benchmarks.subsets import (
    PublishedSplit,
    SourceSplits,
    missing_file_error,
    source_splits_from_dataset,
    split_per_class,
)
from vitral.data.benchmarks.tfrecord import read_record, read_records
from vitral.data.dataset import Dataset, FileReader
from vitral.data.example import Example
from vitral.data.images import DecodedImage, decode
from vitral.data.sources import read_folder, read_named
from vitral.errors import DataError

DMLAB_CLASSES = tuple(str(number) for number in range(6))
"""Close, far or very far from a reward or a punishment, as the publisher's indices."""
RETINOPATHY_CLASSES = ("no", "mild", "moderate", "severe", "proliferative")
CALTECH_SHOTS = 30


@dataclass(frozen=True, kw_only=True)
class RecordReader:
    """Read an example whose id is FILE/OFFSET from the TFRecord files of a folder."""

    folder: Path

    def __call__(self, example: Example) -> DecodedImage:
        name, offset = example.id.split("/")
        content = read_record(self.folder / name, int(offset))["image"]
        assert isinstance(content, bytes)
        return decode(content)


def class_folder_reader(
    folder: str, page: str, key: Callable[[str], str]
) -> "SplitsReader":
    """Make a reader of class folders below the data root, published in one piece."""

    def read(root: Path) -> SourceSplits:
        path = root / folder
        if not path.is_dir():
            raise missing_file_error(path, page, "one folder per class")
        return source_splits_from_dataset(read_folder(path), key)

    return read


def caltech101(root: Path) -> SourceSplits:
    """Read Caltech-101 with its background class: 30 images of each class are train.

    The 30 differ from TensorFlow Datasets', which draws in the order of its disk.
    """
    read_named("caltech101", root)
    pool = source_splits_from_dataset(
        read_folder(root / "caltech101" / "101_ObjectCategories"), str
    )
    return replace(pool, splits=split_per_class(pool.splits[""], CALTECH_SHOTS))


def retinopathy(root: Path) -> SourceSplits:
    """Read Kaggle's retinopathy images, 2015: the public test images are val.

    VTAB rescales them to a radius of 300 pixels and removes the local average
    ("btgraham-300"); here they are read as they are in the folders.
    """
    folder = root / "diabetic_retinopathy"
    train = _read_table(folder / "trainLabels.csv", ("image", "level"))
    test = _read_table(folder / "retinopathy_solution.csv", ("image", "level", "Usage"))
    splits = {}
    for split, subfolder, rows in (
        ("train", "train", train),
        ("val", "test", [row for row in test if row["Usage"] == "Public"]),
        ("test", "test", [row for row in test if row["Usage"] == "Private"]),
    ):
        present = {file.name for file in (folder / subfolder).glob("*.jpeg")}
        names = [row["image"] for row in rows]
        missing = [name for name in names if f"{name}.jpeg" not in present]
        if missing:
            raise DataError(
                f"{folder / subfolder} lacks {missing[0]}.jpeg and "
                f"{len(missing) - 1} more that the tables list. Complete the images."
            )
        splits[split] = PublishedSplit(
            ids=[f"{subfolder}/{name}.jpeg" for name in names],
            keys=names,
            labels=np.array([int(row["level"]) for row in rows], dtype=np.int64),
        )
    return SourceSplits(
        classes=RETINOPATHY_CLASSES, splits=splits, reader=FileReader(root=folder)
    )


def dmlab(root: Path) -> SourceSplits:
    """Read DMLab's frames from the TFRecord files that VTAB publishes."""
    folder = root / "dmlab"
    splits = {}
    for split, published in (("train", "train"), ("val", "validation"), ("test",) * 2):
        files = sorted(folder.glob(f"dmlab-{published}.tfrecord*"))
        if not files:
            raise missing_file_error(
                folder / f"dmlab-{published}.tfrecord",
                "https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz",
                "TFRecord files",
            )
        rows = [row for file in files for row in _read_frames(file)]
        ids, keys, labels = zip(*rows, strict=True)
        splits[split] = PublishedSplit(ids=ids, keys=keys, labels=np.array(labels))
    return SourceSplits(
        classes=DMLAB_CLASSES, splits=splits, reader=RecordReader(folder=folder)
    )


def birds(root: Path) -> SourceSplits:
    """Read CUB-200-2011 with its published train and test (Wah et al., 2011)."""
    folder = root / "CUB_200_2011"
    paths, labels, train = (
        dict(_read_pairs(folder / f"{name}.txt"))
        for name in ("images", "image_class_labels", "train_test_split")
    )
    classes = tuple(name for _, name in _read_pairs(folder / "classes.txt"))
    if not set(paths) == set(labels) == set(train):
        raise DataError(
            f"The lists of {folder} do not name the same images. Fetch them again."
        )
    splits = {}
    for split, flag in (("train", "1"), ("test", "0")):
        chosen = [image_id for image_id in paths if train[image_id] == flag]
        splits[split] = PublishedSplit(
            ids=[paths[image_id] for image_id in chosen],
            keys=[paths[image_id] for image_id in chosen],
            labels=np.array([int(labels[image_id]) - 1 for image_id in chosen]),
        )
    return SourceSplits(
        classes=classes, splits=splits, reader=FileReader(root=folder / "images")
    )


def torchvision_reader(name: str, key: Callable[[str], str]) -> "SplitsReader":
    """Make a reader of a torchvision set by its name in vitral."""
    return dataset_reader(lambda root: read_named(name, root), key)


def dataset_reader(
    make: Callable[[Path], Dataset], key: Callable[[str], str]
) -> "SplitsReader":
    """Make a reader of the data set that `make` returns for the data root."""
    return lambda root: source_splits_from_dataset(make(root), key)


SplitsReader = Callable[[Path], SourceSplits]


def _read_frames(file: Path) -> Iterator[tuple[str, str, int]]:
    """Yield id, key and label of each frame."""
    for record in read_records(file):
        name, label = record.features.get("filename"), record.features.get("label")
        if not isinstance(name, bytes) or not isinstance(label, int):
            raise DataError(
                f"{file}: the record at byte {record.offset} has the features "
                f"{', '.join(record.features)}; image, filename and label were "
                "expected. Fetch the file again."
            )
        yield f"{file.name}/{record.offset}", name.decode(), label


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise missing_file_error(
            path,
            "https://www.kaggle.com/c/diabetic-retinopathy-detection/data",
            f"a table with {','.join(columns)}",
        )
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
    if not rows or not set(columns) <= set(rows[0]):
        raise DataError(
            f"{path}: expected the columns {','.join(columns)}, found "
            f"{','.join(rows[0]) if rows else 'none'}. Fetch the table again."
        )
    return rows


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the first word and the rest of every line."""
    if not path.is_file():
        raise missing_file_error(
            path,
            "https://data.caltech.edu/records/65de6-vp158",
            "its lists and images/",
        )
    lines = path.read_text("utf-8").splitlines()
    return [(first, rest) for first, _, rest in (line.partition(" ") for line in lines)]
