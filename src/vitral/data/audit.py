"""Audit of a data set: decode every example once and report problems.

Reports files that cannot be decoded, the decoder's notes, and exact copies of pixels
across splits or with different labels, but no near copies. Of a clip the container and
eight frames are checked.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from vitral.data.dataset import BadFile, Dataset
from vitral.data.example import Example
from vitral.data.images import RasterImage, Size
from vitral.data.pixel_values import (
    FileValues,
    PixelValues,
    file_values,
    summarize_values,
)
from vitral.errors import DataError, ImageError

MAX_BAD = 0.01
"""Share of the files that a run accepts to be unreadable."""


def accepted_bad(max_bad: int | float, count: int) -> int | float:
    """Return how many of `count` files may be unreadable.

    Args:
        max_bad: a share of them up to 1, above 1 their number.
    """
    return max_bad * count if max_bad <= 1 else max_bad


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Examples whose decoded pixels are equal."""

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    """Their splits, each once."""
    same_label: bool


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Problems of a data set, and the data set without its bad examples."""

    dataset: Dataset
    """Without bad examples in `examples`; `bad` lists them with their labels, so that
    an evaluation can count those of val and test as wrong."""
    bad: tuple[BadFile, ...]
    notes: tuple[str, ...]
    """Sentences with counts, such as "EXIF orientation applied: 12 file(s)"."""
    leaks: tuple[Duplicates, ...]
    """Equal images in different splits."""
    conflicts: tuple[Duplicates, ...]
    """Equal images with different labels, in any splits."""
    median_size: Size
    smallest: Size
    """Smallest height and smallest width, possibly of two images."""
    largest: Size
    decoded: int
    """Number of images decoded."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of size and pixels of each decoded example, by id."""
    values: PixelValues = field(default_factory=PixelValues)
    """Range and channels of the files of train; of all where there is no train."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    example: Example
    notes: tuple[str, ...]
    size: Size
    pixels: str
    """SHA-256 of size and pixels."""
    values: FileValues | None


def check(
    dataset: Dataset,
    workers: int = 0,
    full: bool = True,
    max_bad: int | float = MAX_BAD,
) -> Audit:
    """Decode the examples once and collect their problems.

    Args:
        workers: number of threads; 0 and 1 decode sequentially.
        full: False checks up to 1,000 examples, evenly spaced.
        max_bad: accepted share of undecodable files, above 1 their number.

    Raises:
        DataError: more than `max_bad` of the files cannot be decoded, or none of
            train can; the message lists the first five with their reasons.
    """
    examples = dataset.examples
    if not full:
        examples = examples[:: max(1, -(-len(examples) // 1000))]
    results = list(_decode_examples(dataset, examples, workers))
    good = [result for result in results if isinstance(result, _Decoded)]
    bad = tuple(result for result in results if isinstance(result, BadFile))
    _require_few_bad(dataset, bad, len(results), max_bad)
    names = {item.path for item in bad}
    cleaned = replace(
        dataset,
        examples=tuple(item for item in dataset.examples if item.id not in names),
        bad=(*dataset.bad, *bad),
    )
    copies = _find_duplicates(good)
    leaks = tuple(copy for copy in copies if len(copy.splits) > 1)
    conflicts = tuple(copy for copy in copies if not copy.same_label)
    train = [item for item in good if item.example.split == "train"] or good
    values = summarize_values([item.values for item in train])
    notes = _summarize(good, leaks, conflicts, dataset.kind[:-1]) + values.notes
    heights = [result.size.height for result in good]
    widths = [result.size.width for result in good]
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
        decoded=len(results),
        digests={result.example.id: result.pixels for result in good},
        values=values,
    )


def _decode_examples(
    dataset: Dataset, examples: tuple[Example, ...], workers: int
) -> Iterator[_Decoded | BadFile]:
    def decode(example: Example) -> _Decoded | BadFile:
        try:
            decoded = dataset.decode(example)
        except ImageError as error:
            return BadFile.from_example(example, str(error))
        frames = decoded.frames
        size = Size(decoded.image.height, decoded.image.width // frames)
        digest = hashlib.sha256(f"{size}".encode())
        digest.update(decoded.image.tobytes())
        values = file_values(decoded.image)
        if isinstance(decoded.image, RasterImage):
            # Pictures may be equal where values are not.
            digest.update(decoded.image.raster.values.tobytes())
        return _Decoded(example, decoded.notes, size, digest.hexdigest(), values)

    if workers < 2:
        yield from map(decode, examples)
    else:
        # Threads: Pillow decodes outside the interpreter lock.
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(decode, examples)


def _require_few_bad(
    dataset: Dataset, bad: tuple[BadFile, ...], count: int, max_bad: int | float
) -> None:
    train = [example.id for example in dataset.examples if example.split == "train"]
    train_lost = bool(train) and set(train) <= {item.path for item in bad}
    listed = "; ".join(f"{item.path}: {item.reason}" for item in bad[:5])
    found = f"{dataset.root}: {len(bad)} of {count} {dataset.kind} cannot be decoded"
    if train_lost:
        raise DataError(
            f"{found}, and none of train can. The first: {listed}. Repair them, or add "
            f"{dataset.kind}."
        )
    if len(bad) > accepted_bad(max_bad, count):
        raise DataError(
            f"{found}, more than the {accepted_text(max_bad)} accepted. The first: "
            f"{listed}. Repair or remove them, or raise `max_bad`."
        )


def accepted_text(max_bad: int | float) -> str:
    """Return the words for an accepted share or number, before `accepted`."""
    return f"{max_bad:g} that are" if max_bad > 1 else f"{100 * max_bad:.3g}% that is"


def _find_duplicates(results: list[_Decoded]) -> list[Duplicates]:
    by_pixels: dict[str, list[Example]] = {}
    for result in results:
        by_pixels.setdefault(result.pixels, []).append(result.example)
    copies = []
    for examples in by_pixels.values():
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
    results: list[_Decoded],
    leaks: tuple[Duplicates, ...],
    conflicts: tuple[Duplicates, ...],
    noun: str,
) -> tuple[str, ...]:
    counts = Counter(note for item in results for note in dict.fromkeys(item.notes))
    notes = [f"{note}: {count} file(s)" for note, count in sorted(counts.items())]
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


def require_few_unread(
    failures: Sequence[tuple[str, str]],
    count: int,
    max_bad: int | float,
    *,
    found: str = "images can no longer be read",
    advice: str = "Bring the files back and go on with `resume=True`, or raise "
    "`max_bad` in a new run.",
) -> None:
    """Refuse a split of which too many images became unreadable.

    Args:
        failures: name and reason of each.
        count: images of the split.
        max_bad: accepted share, above 1 the accepted number.
        found: the fault, which follows the number of images.
        advice: last sentence of the message.

    Raises:
        DataError: there are more; the message lists the first five.
    """
    if len(failures) <= accepted_bad(max_bad, count):
        return
    listed = "; ".join(f"{name}: {reason}" for name, reason in failures[:5])
    raise DataError(
        f"{len(failures)} of {count} {found}, more than the {accepted_text(max_bad)} "
        f"accepted. The first: {listed}. {advice}"
    )
