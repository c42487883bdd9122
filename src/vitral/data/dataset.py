"""Data sets of any source: classes, examples and a reader of examples."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image

from vitral.data.example import Example
from vitral.data.images import DecodedImage, decode, one_line
from vitral.data.targets import ClassTargets, Targets
from vitral.data.video import DEFAULT_TIMEOUT, Clip, open_clip
from vitral.data.walk import left_out_line, reason_group
from vitral.errors import DataError, ImageError, MissingExtraError

SPLITS = ("train", "val", "test")
VIDEO_MODEL = "timesformer_s16"
"""Model that error messages suggest for clips."""
SPLIT_ALIASES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class UnavailableError(DataError):
    """The data vanished or changed under a running process, which must stop."""


@dataclass(frozen=True, kw_only=True)
class IgnoredFile:
    """A file that is not an example, with the reason."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """An example whose image cannot be decoded, with the reason."""

    path: str
    reason: str
    split: str
    label: tuple[int, ...] = ()
    target: Any = None

    @classmethod
    def from_example(cls, example: Example, reason: str) -> "BadFile":
        return cls(
            path=example.id,
            reason=reason,
            split=example.split,
            label=example.label,
            target=example.target,
        )


@dataclass(frozen=True, kw_only=True)
class FileReader:
    """Read an example from the file that its id names below `root`."""

    root: Path
    concurrent: ClassVar[bool] = True
    """Threads may call it at once; a reader without this is called by one thread."""

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
    """Class names; a label is an index into them."""
    examples: tuple[Example, ...]
    reader: Callable[[Example], DecodedImage | Clip]
    """Reads an example. Picklable and small: loader workers receive a copy."""
    order: Callable[[tuple[Example, ...], int, int], list[int]] | None = None
    """Maps (examples, seed, epoch) to the indices of a shuffled epoch, where random
    access is slow. None: a plain permutation."""
    targets: Targets = field(default_factory=ClassTargets)
    """Makes the targets of a batch."""
    kind: Literal["images", "clips"] = "images"
    ignored: tuple[IgnoredFile, ...] = ()
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    def require_kind(self, kind: str) -> None:
        """Refuse clips where `kind` is "images"; opening refuses the reverse.

        Raises:
            DataError: the model takes single images and these are clips.
        """
        if self.kind == "clips" and kind == "images":
            raise DataError(
                f"{self.root} holds clips, such as {self.examples[0].id}, but the "
                "model takes single images. Choose a video model, such as "
                f"`model={VIDEO_MODEL}`, or give images."
            )

    def select(self, split: str) -> tuple[Example, ...]:
        """Return the examples of one split, in the data set's order."""
        return tuple(example for example in self.examples if example.split == split)

    def open(self, example: Example) -> Image.Image | Clip:
        """Open an example for a transform: an RGB image, or a clip not yet decoded.

        Raises:
            ImageError: the file cannot be decoded, or the reader raised any error.
        """
        opened = self._open_example(example)
        return opened.image if isinstance(opened, DecodedImage) else opened

    def decode(self, example: Example) -> DecodedImage:
        """Decode an example to an RGB image with notes; a clip to a strip of frames.

        Raises:
            ImageError: the file cannot be decoded, or the reader raised any error.
        """
        opened = self._open_example(example)
        return opened if isinstance(opened, DecodedImage) else opened.filmstrip()

    def read(self, example: Example) -> Image.Image:
        """Return the RGB image of an example; of a clip a strip of frames.

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
            raise ImageError(f"decoding failed: {one_line(error)}") from error

    def counts(self) -> dict[str, dict[str, int]]:
        """Count examples per split and class, zeros included; omit empty splits.

        An example with several labels counts once for each. Without classes the only
        key is the kind of the examples.
        """
        counts: dict[str, dict[str, int]] = {}
        for split in (*SPLITS, ""):
            chosen = self.select(split)
            if chosen:
                if not self.classes:
                    counts[split] = {self.kind: len(chosen)}
                    continue
                per_class = dict.fromkeys(self.classes, 0)
                for example in chosen:
                    for label in example.label:
                        per_class[self.classes[label]] += 1
                counts[split] = per_class
        return counts

    def sizes(self) -> dict[str, int]:
        """Count the examples of each split, whatever their labels; omit empty ones."""
        sizes = Counter(example.split for example in self.examples)
        return {split: sizes[split] for split in (*SPLITS, "") if sizes[split]}

    def label_counts(self) -> dict[str, dict[str, int]]:
        """Count by split what is not one label an image: {} where all have one.

        Returns:
            {"labels": {split: number}, "without_label": {split: images}}.
        """
        # With a target of its own an example has shares, and no several labels.
        numbers = [1 if e.target is not None else len(e.label) for e in self.examples]
        if not any(numbers) or set(numbers) == {1}:
            return {}
        labels = dict.fromkeys(self.sizes(), 0)
        without = dict.fromkeys(self.sizes(), 0)
        for example, number in zip(self.examples, numbers, strict=True):
            labels[example.split] += number
            without[example.split] += not number
        return {"labels": labels, "without_label": without}

    def describe_splits(self) -> dict[str, str]:
        """Return how many examples and, where that differs, labels a split has."""
        other = self.label_counts()
        described = {}
        for split, size in self.sizes().items():
            described[split] = f"{size} {self.kind}"
            if other:
                described[split] += f", {other['labels'][split]} labels"
                if empty := other["without_label"][split]:
                    described[split] += f", {empty} without a label"
        return described

    def left_out_line(self) -> str:
        """Return the one line on the files that are no example; "" if there is none."""
        groups = Counter(reason_group(file.path, file.reason) for file in self.ignored)
        return left_out_line(groups, len(self.examples) + len(self.bad))

    def fingerprint(self) -> str:
        """Return the SHA-256 of classes, ids, labels, targets and splits.

        It does not depend on the order of the examples.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for example in sorted(self.examples, key=lambda example: example.id):
            row = [example.id, example.label, example.target, example.split]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def shorten_names(names: tuple[str, ...] | list[str], limit: int = 10) -> str:
    """Join names for a message, cut after `limit`."""
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text}, ... ({len(names)} in all)"
