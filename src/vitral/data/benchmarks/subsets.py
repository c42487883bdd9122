"""Drawing a task of fixed size from a publisher's files, always the same images.

The order is that of TensorFlow Datasets, of which VTAB takes the first 800 and 200: MD5
of the split's name and the example's key, with the keys of its source code. For CIFAR
it gives the ids that TensorFlow Datasets is known to give; the other sets were not
compared with a copy of it, and some of its keys changed between versions.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from vitral.data.dataset import Dataset, Example
from vitral.data.images import DecodedImage
from vitral.data.video import Clip
from vitral.errors import DataError

TFDS_SPLIT_NAMES = {"": "train", "train": "train", "val": "validation", "test": "test"}
"""What TensorFlow Datasets calls our splits; a set without splits is all train."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedSplit:
    """What the publisher calls one split."""

    ids: Sequence[str]
    keys: Sequence[str]
    """The names that decide the order, [examples]."""
    labels: Int[np.ndarray, " examples"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceSplits:
    """All that a task may draw from."""

    classes: tuple[str, ...]
    splits: dict[str, PublishedSplit]
    """By "train", "val" and "test"; "" is a set that was published in one piece."""
    reader: Callable[[Example], DecodedImage | Clip]


@dataclass(frozen=True, kw_only=True)
class SplitSlice:
    """A piece of a published split in the order of the hash."""

    split: str
    """The published split."""
    start: int | float = 0.0
    stop: int | float = 1.0
    """A share as a float, a number of images as an int."""
    limit: int = 0
    """The first so many of the piece; 0 takes all."""


def source_splits_from_dataset(
    dataset: Dataset, key: Callable[[str], str]
) -> SourceSplits:
    """The examples of a data set, with a key made from each id."""
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
    """Indices of `keys` sorted by the MD5 of `salt` followed by the key."""
    start = hashlib.md5(salt.encode(), usedforsecurity=False)
    digests = []
    for key in keys:
        one = start.copy()
        one.update(key.encode("utf-8", "surrogateescape"))
        digests.append(one.digest())
    return np.array(sorted(range(len(keys)), key=digests.__getitem__), dtype=np.int64)


def draw_subset(
    source: SourceSplits, slices: dict[str, tuple[SplitSlice, ...]]
) -> tuple[Example, ...]:
    """The examples of each of our splits, sorted by id.

    Raises:
        DataError: the files hold fewer images than a part asks for.
    """
    orders = {
        name: hash_order(TFDS_SPLIT_NAMES[name], split.keys)
        for name, split in source.splits.items()
    }
    examples: list[Example] = []
    for name, pieces in slices.items():
        for piece in pieces:
            split, order = source.splits[piece.split], orders[piece.split]
            start, stop = (
                _to_index(end, len(order)) for end in (piece.start, piece.stop)
            )
            chosen = order[start:stop]
            if len(chosen) < max(piece.limit, 1):
                raise DataError(
                    f"{name} needs {max(piece.limit, 1)} images, but there are only "
                    f"{len(chosen)} to draw it from. Complete the files."
                )
            chosen = chosen[: piece.limit or None]
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
    """The first `num_train` of each class as train, the others as test.

    Raises:
        DataError: a class has no image left for test.
    """
    # Another salt than the one that draws from the result: with the same, the classes
    # with many images would come first there.
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
    places = np.flatnonzero(mask).tolist()
    return PublishedSplit(
        ids=[split.ids[place] for place in places],
        keys=[split.keys[place] for place in places],
        labels=split.labels[places],
    )


def _to_index(bound: int | float, length: int) -> int:
    """A bound as an index; shares round to the nearest, as TensorFlow Datasets does."""
    return bound if isinstance(bound, int) else round(bound * length)
