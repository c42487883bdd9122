"""What a data set is, wherever it came from: classes, examples and a way to read one.

Where examples come from is in folder.py, table.py and named.py; how they are divided
in split.py.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vitral.data.images import Decoded, decode
from vitral.errors import ImageError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image and what it shows."""

    id: str
    """Stable name: the POSIX path relative to the root, or like "digits/00012"."""
    label: tuple[int, ...]
    """Class indices; one unless the data set is multi-label."""
    target: tuple[float, ...] | None = None
    """Soft target over all classes, summing to 1; None means "from label"."""
    split: str = ""
    """"train", "val", "test", or "" while undecided."""
    group: str = ""
    """Examples of one group never part; "" is no group."""


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A file that is not an example, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """An example whose image cannot be decoded, and why."""

    path: str
    reason: str
    split: str
    label: tuple[int, ...] = ()
    target: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class FileReader:
    """Read an example from the file that its id names below `root`."""

    root: Path

    def __call__(self, example: Example) -> Decoded:
        return decode(self.root / example.id)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Examples with one class map for all splits; nothing here writes to `root`."""

    name: str
    root: Path
    classes: tuple[str, ...]
    """Names in natural order; a label is an index into them."""
    examples: tuple[Example, ...]
    reader: Callable[[Example], Decoded]
    """Picklable and small: loader workers receive a copy."""
    multi_label: bool = False
    ignored: tuple[Ignored, ...] = ()
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    def select(self, split: str) -> tuple[Example, ...]:
        """The examples of one split, in the data set's order."""
        return tuple(example for example in self.examples if example.split == split)

    def decode(self, example: Example) -> Decoded:
        """The RGB image of an example with the notes of the decoder.

        Raises:
            ImageError: the file cannot be decoded, whatever the reader met.
        """
        try:
            return self.reader(example)
        except ImageError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"decoding failed: {reason}") from error

    def read(self, example: Example) -> Image.Image:
        """The RGB image of an example.

        Raises:
            ImageError: the file cannot be decoded.
        """
        return self.decode(example).image

    def counts(self) -> dict[str, dict[str, int]]:
        """Examples per split and class, zero included; a split without any is absent.

        An example with several labels counts once for each.
        """
        counts: dict[str, dict[str, int]] = {}
        for split in (*SPLITS, ""):
            chosen = self.select(split)
            if chosen:
                per_class = dict.fromkeys(self.classes, 0)
                for example in chosen:
                    for label in example.label:
                        per_class[self.classes[label]] += 1
                counts[split] = per_class
        return counts

    def fingerprint(self) -> str:
        """SHA-256 of classes, ids, labels, soft targets and splits; order-free."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for example in sorted(self.examples, key=lambda example: example.id):
            row = [example.id, example.label, example.target, example.split]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which "class 2" comes before "class 10"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def shortened(names: tuple[str, ...] | list[str], limit: int = 10) -> str:
    """Names for a message, cut after `limit`."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
