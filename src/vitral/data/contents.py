"""Content of the files of a data set: size, time and pixels, to see what changed.

The fingerprint of a data set covers names, labels and splits. Two versions of a file
share all of these.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vitral.data.dataset import Dataset
from vitral.data.video import frame_files
from vitral.errors import DataError

COLUMNS = ("path", "size", "mtime_ns", "pixels")
FileStat = tuple[int, int]
"""Bytes, and time of the last change in nanoseconds; (-1, 0) where there is no file."""
MISSING: FileStat = (-1, 0)


@dataclass(frozen=True, slots=True)
class FileContent:
    """Content of an example."""

    size: int
    """Bytes; of a folder of frames their sum; -1 for an example without a file."""
    mtime_ns: int
    """Time of the last change in nanoseconds; of a folder the newest."""
    pixels: str
    """SHA-256 of the decoded pixels; "" where they were not decoded."""

    def equals(self, other: "FileContent") -> bool:
        """Compare pixels where both know them, else sizes and times.

        A copy of a data set has other times and the same pixels.
        """
        if self.pixels and other.pixels:
            return self.pixels == other.pixels
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


def stat_file(path: Path) -> FileStat:
    """Return bytes and time of a file; of a folder of frames sum and newest."""
    try:
        if path.is_dir():
            stats = [stat_file(file) for file in frame_files(path)]
            return sum(size for size, _ in stats), max((t for _, t in stats), default=0)
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    except (OSError, ValueError):
        return MISSING


def measure_contents(
    dataset: Dataset, digests: Mapping[str, str]
) -> dict[str, FileContent]:
    """Return the content of each example, by id.

    Args:
        digests: SHA-256 of the decoded pixels, by id, as far as they are known.
    """
    return {
        example.id: FileContent(
            *stat_file(dataset.root / example.file), digests.get(example.id, "")
        )
        for example in dataset.examples
    }


def find_changes(
    before: Mapping[str, FileContent], after: Mapping[str, FileContent]
) -> list[str]:
    """Return the ids that are in both and differ, in order."""
    return sorted(
        name
        for name, content in after.items()
        if name in before and not content.equals(before[name])
    )


def hash_contents(contents: Mapping[str, FileContent]) -> str:
    """Return a SHA-256 of pixels where they are known, else of sizes and times."""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        key = content.pixels or (content.size, content.mtime_ns)
        digest.update(repr((name, key)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def format_contents(contents: Mapping[str, FileContent]) -> str:
    """Format a table with the columns `COLUMNS`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, content in sorted(contents.items()):
        writer.writerow([name, content.size, content.mtime_ns, content.pixels])
    return text.getvalue()


def parse_contents(lines: Iterable[str]) -> dict[str, FileContent]:
    """Parse the table that `format_contents` writes.

    Raises:
        DataError: a row is not of that form.
    """
    rows = csv.reader(lines)
    contents = {}
    try:
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError
        for name, size, mtime_ns, pixels in rows:
            contents[name] = FileContent(int(size), int(mtime_ns), pixels)
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"Line {rows.line_num} is not of a table with the columns "
            f"{','.join(COLUMNS)}."
        ) from error
    return contents
