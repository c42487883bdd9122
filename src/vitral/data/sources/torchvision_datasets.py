"""Data sets by name: torchvision's classification sets, and those inside a package.

Class order is the publisher's. torchvision_catalogue.py and builtin.py list the sets.
"""

import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vitral.data.dataset import Dataset, FileReader
from vitral.data.example import Example
from vitral.data.images import DecodedImage, to_rgb
from vitral.data.sources.builtin import BUILTIN_DATASETS
from vitral.data.sources.torchvision_catalogue import (
    TORCHVISION_DATASETS,
    TorchvisionSpec,
)
from vitral.errors import ConfigError, DataError
from vitral.validation import nearest_names as match_names

NAMES = (*BUILTIN_DATASETS, *TORCHVISION_DATASETS)


def default_root() -> Path:
    """Return the default folder of named data sets."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vitral" / "data"


def nearest_names(name: str) -> tuple[str, ...]:
    """Return the names closest to a misspelt one; all if none is close."""
    plain = name.lower().replace("-", "").replace("_", "")
    by_plain = {full.replace("_", ""): full for full in NAMES}
    close = match_names(plain, by_plain, count=3, cutoff=0.5)
    return tuple(by_plain[match] for match in close) or NAMES


def read_named(name: str, root: Path | None = None) -> Dataset:
    """List the examples of a named data set, downloading it if `root` lacks it.

    Args:
        name: one of NAMES.
        root: folder with the data sets, laid out as torchvision does.

    Raises:
        ConfigError: the name is unknown.
        DataError: the files are absent and cannot be downloaded, or are unusable.
    """
    if name in BUILTIN_DATASETS:
        return BUILTIN_DATASETS[name]()
    if name not in TORCHVISION_DATASETS:
        raise ConfigError(
            f"No data set is named {name!r}. Nearest: {', '.join(nearest_names(name))}."
        )
    spec = TORCHVISION_DATASETS[name]
    root = root or default_root()
    examples: list[Example] = []
    classes: tuple[str, ...] = ()
    for split in sorted(spec.splits, key=("", "train", "val", "test").index):
        source = _open_torchvision(name, root, split)
        classes = _class_names(spec, source)
        labels = _read_labels(name, spec, source)
        if spec.files:
            paths = [_first_item(item) for item in getattr(source, spec.files)]
            ids = [Path(path).relative_to(root).as_posix() for path in paths]
        else:
            ids = [f"{name}/{split or 'all'}/{i:06d}" for i in range(len(labels))]
        in_split = [
            Example(id=id_, label=(label,), split=split)
            for id_, label in zip(ids, labels, strict=True)
        ]
        # Some torchvision classes list a folder in the order of the disk.
        examples += sorted(in_split, key=lambda example: example.id)
    reader = FileReader(root=root) if spec.files else IndexReader(name=name, root=root)
    return Dataset(
        name=name, root=root, classes=classes, examples=tuple(examples), reader=reader
    )


@dataclass(frozen=True, kw_only=True)
class IndexReader:
    """Read an example whose id is NAME/SPLIT/INDEX; open the set once per process."""

    name: str
    root: Path

    def __call__(self, example: Example) -> DecodedImage:
        split, index = example.id.split("/")[1:]
        source = _open_torchvision(
            self.name, self.root, "" if split == "all" else split
        )
        return to_rgb(source[int(index)][0])


@lru_cache(maxsize=4)
def _open_torchvision(name: str, root: Path, split: str) -> Any:
    """Return the torchvision object; cached for reading by index."""
    from torchvision import datasets

    spec = TORCHVISION_DATASETS[name]
    factory = getattr(datasets, spec.factory)
    folder = root / spec.folder
    arguments = spec.splits[split]
    # SEMEION alone downloads by default.
    local = {"download": False} if spec.downloads else {}
    try:
        return factory(str(folder), **arguments, **local)
    except Exception as error:
        missing = error
    if spec.downloads:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return factory(str(folder), **arguments, download=True)
        except Exception as error:
            missing = error
    reason = " ".join(str(missing).split()).rstrip(".") or type(missing).__name__
    state = "could not be downloaded" if spec.downloads else "has no download"
    raise DataError(
        f"The data set {name} is not complete in {folder} and {state}: {reason}. Place "
        "its files there as torchvision lays them out, or give another data root."
    ) from missing


def _class_names(spec: TorchvisionSpec, source: Any) -> tuple[str, ...]:
    if isinstance(spec.classes, tuple):
        return spec.classes
    # ImageNet names are tuples of synonyms, and two of its first names occur twice.
    names = [str(_first_item(item)) for item in getattr(source, spec.classes)]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(unique)


def _read_labels(name: str, spec: TorchvisionSpec, source: Any) -> list[int]:
    if callable(spec.labels):
        return list(spec.labels(source))
    items = getattr(source, spec.labels)
    labels = [_to_label(item) for item in items]
    if None in labels:
        raise DataError(
            f"The data set {name} has examples without a label in {source.root}. Use "
            "the files that carry labels."
        )
    return [label for label in labels if label is not None]


def _to_label(item: Any) -> int | None:
    """Return the label in an item: the item, or the only integer in a tuple."""
    if isinstance(item, tuple | list):
        integers = [part for part in item if isinstance(part, int | np.integer)]
        return int(integers[0]) if integers else None
    return None if item is None else int(item)


def _first_item(item: Any) -> Any:
    return item[0] if isinstance(item, tuple | list) else item
