"""The files that are to be answered for, as they were when the answers began.

One line of JSON a file, so that no list of all has to be in memory.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vitral.atomic_io import make_folder, write_atomic
from vitral.errors import ConfigError
from vitral.workflows.predict.writers import FORMS, is_file_name
from vitral.workflows.run_lock import LOCK


class Place(NamedTuple):
    """Where answers and what is known of them lie."""

    out: Path
    """One file, or a folder of parts."""
    work: Path
    """Parts, listing and lock."""
    plan: Path

    @classmethod
    def of(cls, out: Path) -> "Place":
        if not is_file_name(out):
            return cls(out, out, out / "plan.json")
        return cls(
            out,
            out.with_name(f"{out.name}.parts"),
            out.with_name(f"{out.name}.plan.json"),
        )

    @property
    def whole(self) -> bool:
        """Whether the parts become one file."""
        return self.out != self.work

    @property
    def listing(self) -> Path:
        return self.work / "files.jsonl"

    @property
    def lock(self) -> Path:
        return self.work / LOCK

    def part(self, number: int, form: str) -> Path:
        return self.work / f"part-{number:05d}{FORMS[form].suffix}"


def make_place(place: Place) -> None:
    """Make the folder that holds the parts.

    Raises:
        ConfigError: a file is in its way, or it cannot be made.
    """
    if place.work.is_file() or (place.whole and place.out.is_dir()):
        kind = "file" if place.work.is_file() else "folder"
        name = place.work if place.work.is_file() else place.out
        raise ConfigError(
            f"{name} is a {kind}: `--out` names a file that ends in .jsonl, .csv or "
            ".parquet, or a folder for the parts."
        )
    make_folder(place.work)


def clear_up(place: Place) -> None:
    """Remove the folder of parts, if nobody uses it."""
    if place.whole and place.work.is_dir() and not any(place.work.iterdir()):
        place.work.rmdir()


class Listed(NamedTuple):
    """A file as it was when the answers began."""

    path: str
    size: int
    time: int
    """Nanoseconds of its last change."""


class Listing(NamedTuple):
    """What is to be known of a written list."""

    files: int
    digest: str
    """SHA-256 of its lines."""
    starts: tuple[int, ...]
    """Where each part begins, in bytes."""


def lines_of(files: Iterable[Path]) -> Iterator[bytes]:
    """The line of each file: its name, size and time."""
    for file in files:
        try:
            about = file.stat()
            listed = Listed(str(file), about.st_size, about.st_mtime_ns)
        except OSError:
            listed = Listed(str(file), -1, 0)  # gone meanwhile: its row will say so
        yield json.dumps(listed).encode() + b"\n"


def write_listing(place: Place, files: Iterable[Path], each: int) -> Listing:
    """List the files; `each` of them are a part."""

    def write(path: Path) -> None:
        with path.open("wb") as opened:
            opened.writelines(lines_of(files))

    write_atomic(place.listing, write)
    return read_listing(place, each)


def read_listing(place: Place, each: int) -> Listing:
    """What an earlier start listed."""
    digest = hashlib.sha256()
    number, position, starts = 0, 0, []
    with place.listing.open("rb") as lines:
        for line in lines:
            if number % each == 0:
                starts.append(position)
            digest.update(line)
            number, position = number + 1, position + len(line)
    return Listing(number, digest.hexdigest(), tuple(starts))


def digest_of(lines: Iterable[bytes]) -> str:
    """The SHA-256 of lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def compare_files(place: Place, files: Iterable[Path]) -> None:
    """Compare the files with those that were listed.

    Raises:
        ConfigError: a file is new, gone or changed since; the first one is named.
    """
    with place.listing.open("rb") as stored:
        for old, new in itertools.zip_longest(stored, lines_of(files)):
            if old == new:
                continue
            before = Listed(*json.loads(old)) if old else None
            now = Listed(*json.loads(new)) if new else None
            if before and now and before.path == now.path:
                what = f"{now.path} has changed"
            elif before and not os.path.exists(before.path):
                what = f"{before.path} is gone"
            elif now:
                what = f"{now.path} is new or in another place"
            else:
                what = f"{before.path if before else '?'} is not named any more"
            raise ConfigError(
                f"The answers in {place.out} were begun for other files: {what} since. "
                "Bring the files back to what they were, or give another `--out`."
            )
