"""What a data set is, wherever it came from: classes, examples and a way to read one.

Where examples come from is in folder.py, table.py and named.py; how they are divided
in split.py.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image

from vitral.data.images import DecodedImage, decode
from vitral.data.video import DEFAULT_TIMEOUT, Clip, open_clip
from vitral.errors import DataError, ImageError, MissingExtraError

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class UnavailableError(DataError):
    """The data went away, or changed, under a running process, which must not go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One image or clip and what it shows."""

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
    span: tuple[float, float] | None = None
    """First second of a clip and the one behind its last; None for all of it. An id
    then ends in "#t=FIRST,LAST"."""
    location: tuple[int, ...] = ()
    """Where in the shards it is, for their reader: the shard's number, then offset and
    size, or row group and row. No part of what the example is."""

    def with_split(self, split: str) -> "Example":
        """The same example in another split; `dataclasses.replace` takes four times as
        long, which 100,000 examples feel."""
        return Example(
            id=self.id,
            label=self.label,
            target=self.target,
            split=split,
            group=self.group,
            span=self.span,
            location=self.location,
        )

    @property
    def file(self) -> str:
        """The path in the id of an example that is a file or a folder."""
        return self.id if self.span is None else self.id.rpartition("#t=")[0]


@dataclass(frozen=True, kw_only=True)
class IgnoredFile:
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
    concurrent: ClassVar[bool] = True
    """Several threads may read at once; a reader that does not say so is asked by
    one."""

    def __call__(self, example: Example) -> DecodedImage:
        return decode(self.root / example.id)


@dataclass(frozen=True, kw_only=True)
class ClipReader:
    """Open the clip that an example's id names below `root`."""

    root: Path
    timeout: float = DEFAULT_TIMEOUT
    """Seconds that decoding may take for one clip."""

    def __call__(self, example: Example) -> Clip:
        return open_clip(self.root / example.file, example.span, self.timeout)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Examples with one class map for all splits; nothing here writes to `root`."""

    name: str
    root: Path
    classes: tuple[str, ...]
    """Names in natural order; a label is an index into them."""
    examples: tuple[Example, ...]
    reader: Callable[[Example], DecodedImage | Clip]
    """Picklable and small: loader workers receive a copy."""
    order: Callable[[tuple[Example, ...], int, int], list[int]] | None = None
    """(examples, seed, epoch) to the indices of a shuffled epoch, where reading in any
    order would be slow; None for a plain permutation."""
    kind: Literal["images", "clips"] = "images"
    multi_label: bool = False
    ignored: tuple[IgnoredFile, ...] = ()
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    def select(self, split: str) -> tuple[Example, ...]:
        """The examples of one split, in the data set's order."""
        return tuple(example for example in self.examples if example.split == split)

    def open(self, example: Example) -> Image.Image | Clip:
        """What a transform gets: the RGB image, or the clip before it is decoded.

        Raises:
            ImageError: the file cannot be decoded, whatever the reader met.
        """
        opened = self._open_example(example)
        return opened.image if isinstance(opened, DecodedImage) else opened

    def decode(self, example: Example) -> DecodedImage:
        """The RGB image of an example with the notes of the decoder.

        Of a clip it is a strip of frames.

        Raises:
            ImageError: the file cannot be decoded, whatever the reader met.
        """
        opened = self._open_example(example)
        return opened if isinstance(opened, DecodedImage) else opened.filmstrip()

    def read(self, example: Example) -> Image.Image:
        """The RGB image of an example; of a clip a strip of frames.

        Raises:
            ImageError: the file cannot be decoded.
        """
        return self.decode(example).image

    def _open_example(self, example: Example) -> DecodedImage | Clip:
        try:
            return self.reader(example)
        except (ImageError, MissingExtraError, UnavailableError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"decoding failed: {reason}") from error

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


def shorten_names(names: tuple[str, ...] | list[str], limit: int = 10) -> str:
    """Names for a message, cut after `limit`."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
