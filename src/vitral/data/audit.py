"""The data doctor: decode every example once and say what was found.

Finds files that cannot be decoded, notes of the decoder, and exact copies of decoded
pixels across splits or with different labels. Near copies are not looked for. For a
clip its container and eight of its frames stand.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

from vitral.data.dataset import BadFile, Dataset, Example
from vitral.data.images import Size
from vitral.errors import DataError, ImageError

MAX_BAD = 0.01


class Duplicates(NamedTuple):
    """Examples whose decoded pixels are equal."""

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    """The splits they are in, each once."""
    same_label: bool


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings and the data set without the bad examples."""

    dataset: Dataset
    """Bad examples are gone from `examples`; `bad` lists them with their labels, so
    that an evaluation can count those of val and test as wrong."""
    bad: tuple[BadFile, ...]
    notes: tuple[str, ...]
    """Sentences with counts, such as "EXIF orientation applied: 12 file(s)"."""
    leaks: tuple[Duplicates, ...]
    """Equal images in different splits."""
    conflicts: tuple[Duplicates, ...]
    """Equal images that carry different labels, whatever their splits."""
    median_size: Size
    smallest: Size
    """The smallest height and the smallest width, of any two images."""
    largest: Size
    decoded: int
    """Number of images decoded."""


class _DecodeResult(NamedTuple):
    example: Example
    reason: str
    notes: tuple[str, ...]
    size: Size
    pixels: str


def check(
    dataset: Dataset, workers: int = 0, full: bool = True, max_bad: float = MAX_BAD
) -> Audit:
    """Decode the examples once and collect what is wrong with them.

    Args:
        workers: threads; 0 and 1 decode one image after another.
        full: False looks at up to 1,000 examples, evenly spaced.
        max_bad: largest share of undecodable files that is accepted.

    Raises:
        DataError: more than `max_bad` of the files cannot be decoded, or none of
            train can; the first five are listed with their reasons.
    """
    examples = dataset.examples
    if not full:
        examples = examples[:: max(1, -(-len(examples) // 1000))]
    looks = list(_decode_examples(dataset, examples, workers))
    good = [look for look in looks if not look.reason]
    bad = tuple(_to_bad_file(look) for look in looks if look.reason)
    _require_few_bad(dataset, bad, len(looks), max_bad)
    names = {item.path for item in bad}
    cleaned = replace(
        dataset,
        examples=tuple(item for item in dataset.examples if item.id not in names),
        bad=(*dataset.bad, *bad),
    )
    copies = _find_duplicates(good)
    leaks = tuple(copy for copy in copies if len(copy.splits) > 1)
    conflicts = tuple(copy for copy in copies if not copy.same_label)
    notes = _summarize(good, leaks, conflicts, dataset.kind[:-1])
    heights = [look.size.height for look in good]
    widths = [look.size.width for look in good]
    return Audit(
        dataset=replace(cleaned, notes=(*dataset.notes, *notes)),
        bad=bad,
        notes=notes,
        leaks=leaks,
        conflicts=conflicts,
        median_size=Size(
            round(statistics.median(heights)), round(statistics.median(widths))
        ),
        smallest=Size(min(heights), min(widths)),
        largest=Size(max(heights), max(widths)),
        decoded=len(looks),
    )


def _decode_examples(
    dataset: Dataset, examples: tuple[Example, ...], workers: int
) -> Iterator[_DecodeResult]:
    def look(example: Example) -> _DecodeResult:
        try:
            decoded = dataset.decode(example)
        except ImageError as error:
            return _DecodeResult(example, str(error), (), Size(0, 0), "")
        frames = decoded.frames
        size = Size(decoded.image.height, decoded.image.width // frames)
        digest = hashlib.sha256(f"{size}".encode())
        digest.update(decoded.image.tobytes())
        return _DecodeResult(example, "", decoded.notes, size, digest.hexdigest())

    if workers < 2:
        yield from map(look, examples)
    else:
        # Threads: Pillow decodes outside the interpreter lock.
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(look, examples)


def _to_bad_file(result: _DecodeResult) -> BadFile:
    return BadFile(
        path=result.example.id,
        reason=result.reason,
        split=result.example.split,
        label=result.example.label,
        target=result.example.target,
    )


def _require_few_bad(
    dataset: Dataset, bad: tuple[BadFile, ...], number: int, max_bad: float
) -> None:
    trained = [example.id for example in dataset.examples if example.split == "train"]
    train_lost = bool(trained) and set(trained) <= {item.path for item in bad}
    if len(bad) <= max_bad * number and not train_lost:
        return
    listed = "; ".join(f"{item.path}: {item.reason}" for item in bad[:5])
    raise DataError(
        f"{dataset.root}: {len(bad)} of {number} {dataset.kind} cannot be decoded, "
        f"more than the {max_bad:.0%} that is accepted. The first: {listed}. "
        "Repair or remove them, or raise the share that is accepted."
    )


def _find_duplicates(results: list[_DecodeResult]) -> list[Duplicates]:
    """Groups of examples with equal pixels."""
    same: dict[str, list[Example]] = {}
    for look in results:
        same.setdefault(look.pixels, []).append(look.example)
    copies = []
    for examples in same.values():
        labels = {(example.label, example.target) for example in examples}
        if len(examples) > 1:
            copies.append(
                Duplicates(
                    ids=tuple(example.id for example in examples),
                    splits=tuple(dict.fromkeys(example.split for example in examples)),
                    same_label=len(labels) == 1,
                )
            )
    return copies


def _summarize(
    results: list[_DecodeResult],
    leaks: tuple[Duplicates, ...],
    conflicts: tuple[Duplicates, ...],
    noun: str,
) -> tuple[str, ...]:
    counted = Counter(note for look in results for note in dict.fromkeys(look.notes))
    notes = [f"{note}: {number} file(s)" for note, number in sorted(counted.items())]
    if leaks:
        notes.append(
            f"{len(leaks)} {noun}(s) are in more than one split with equal pixels, "
            f"such as {' and '.join(leaks[0].ids[:2])}"
        )
    if conflicts:
        notes.append(
            f"{len(conflicts)} {noun}(s) appear twice with different labels, such as "
            f"{' and '.join(conflicts[0].ids[:2])}"
        )
    return tuple(notes)
