"""Draw tasks of fixed size from publishers' files in TensorFlow Datasets' order.

VTAB takes the first 800 and 200 by MD5 of the split's name and the example's key, with
the keys of TFDS's source. Hand-written to work without TensorFlow. Compared for CIFAR
only: the other sets were not, and some keys changed between versions of TFDS.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vitral.data.dataset import Dataset
from vitral.data.example import Example
from vitral.data.images import DecodedImage
from vitral.data.video import Clip
from vitral.errors import DataError

TFDS_SPLIT_NAMES = {"": "train", "train": "train", "val": "validation", "test": "test"}
"""TensorFlow Datasets' names of vitral's splits; a set without splits is train."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedSplit:
    """Examples of one published split."""

    ids: Sequence[str]
    keys: Sequence[str]
    """Keys that determine the order, [examples]."""
    labels: Int[np.ndarray, " examples"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceSplits:
    """Published examples from which a task is drawn."""

    classes: tuple[str, ...]
    splits: dict[str, PublishedSplit]
    """By "train", "val" and "test"; "" for a set that was published in one piece."""
    reader: Callable[[Example], DecodedImage | Clip]


@dataclass(frozen=True)
class SplitSlice:
    """A slice of a published split in hash order."""

    split: str
    """The published split."""
    start: int | float = 0.0
    stop: int | float = 1.0
    """A float is a fraction, an int a number of images; also for `start`."""
    limit: int = 0
    """Largest number of images, the first of the slice. 0: all."""


def source_splits_from_dataset(
    dataset: Dataset, key: Callable[[str], str]
) -> SourceSplits:
    """Return the examples of a data set, with keys made from their ids."""
    splits = {}
    for name in dict.fromkeys(example.split for example in dataset.examples):
        chosen = dataset.select(name)
        labels = np.array([example.label[0] for example in chosen])
        splits[name] = PublishedSplit(
            ids=[example.id for example in chosen],
            keys=[key(example.id) for example in chosen],
            labels=labels,
        )
    return SourceSplits(classes=dataset.classes, splits=splits, reader=dataset.reader)


def hash_order(salt: str, keys: Sequence[str]) -> Int[np.ndarray, " examples"]:
    """Return the indices of `keys` sorted by the MD5 of `salt` followed by the key."""
    start = hashlib.md5(salt.encode(), usedforsecurity=False)
    digests = []
    for key in keys:
        digest = start.copy()
        digest.update(key.encode("utf-8", "surrogateescape"))
        digests.append(digest.digest())
    return np.array(sorted(range(len(keys)), key=digests.__getitem__), dtype=np.int64)


def draw_subset(
    source: SourceSplits, slices: dict[str, tuple[SplitSlice, ...]]
) -> tuple[Example, ...]:
    """Return the examples of the slices of each split, sorted by split and id."""
    orders = {
        name: hash_order(TFDS_SPLIT_NAMES[name], split.keys)
        for name, split in source.splits.items()
    }
    examples: list[Example] = []
    for name, parts in slices.items():
        for part in parts:
            split, order = source.splits[part.split], orders[part.split]
            start, stop = (
                _to_index(bound, len(order)) for bound in (part.start, part.stop)
            )
            chosen = order[start:stop]
            if len(chosen) < max(part.limit, 1):
                raise DataError(
                    f"{name} needs {max(part.limit, 1)} images, but there are only "
                    f"{len(chosen)} to draw it from. Complete the files."
                )
            chosen = chosen[: part.limit or None]
            examples += [
                Example(
                    id=split.ids[index],
                    label=(int(split.labels[index]),),
                    split=name,
                )
                for index in chosen
            ]
    return tuple(sorted(examples, key=lambda example: (example.split, example.id)))


def split_per_class(split: PublishedSplit, num_train: int) -> dict[str, PublishedSplit]:
    """Split into the first `num_train` of each class as train, and the rest as test."""
    # A salt that `draw_subset` does not use: with its salt, classes with many images
    # would come first in its order.
    order = hash_order("per class", split.keys)
    taken: dict[int, int] = {}
    first = np.zeros(len(order), dtype=bool)
    for index in order:
        label = int(split.labels[index])
        taken[label] = taken.get(label, 0) + 1
        first[index] = taken[label] <= num_train
    short = [label for label, count in taken.items() if count <= num_train]
    if short:
        raise DataError(
            f"Class {min(short)} has {taken[min(short)]} images; more than {num_train} "
            "are needed, to train and to test. Complete the files."
        )
    return {"train": _select(split, first), "test": _select(split, ~first)}


def _select(split: PublishedSplit, mask: np.ndarray) -> PublishedSplit:
    indices = np.flatnonzero(mask).tolist()
    return PublishedSplit(
        ids=[split.ids[index] for index in indices],
        keys=[split.keys[index] for index in indices],
        labels=split.labels[indices],
    )


def _to_index(bound: int | float, length: int) -> int:
    """Convert a bound to an index; fractions round to nearest, as in TFDS."""
    return bound if isinstance(bound, int) else round(bound * length)


def missing_file_error(path: Path, page: str, content: str = "") -> DataError:
    described = f" ({content})" if content else ""
    return DataError(
        f"{path} is missing{described} and is not downloaded: place it there from "
        f"{page}, or give another data root."
    )
