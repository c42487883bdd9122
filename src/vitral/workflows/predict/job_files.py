"""The files that are to be answered for, as they were when the answers began.

One line of JSON a file, so that no list of all has to be in memory.
"""

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vitral.atomic_io import make_folder, write_atomic
from vitral.errors import ConfigError
from vitral.workflows.predict.writers import WRITERS, is_file_name
from vitral.workflows.run_lock import LOCK_FILE

FOLDER_TAKEN_ERRNOS = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
"""Answers of rmdir when another process was first."""


class JobPaths(NamedTuple):
    """Where answers and what is known of them lie."""

    out: Path
    """One file, or a folder of parts."""
    work: Path
    """Parts, listing and lock."""
    plan: Path

    @classmethod
    def from_output(cls, out: Path) -> "JobPaths":
        if not is_file_name(out):
            return cls(out, out, out / "plan.json")
        return cls(
            out,
            out.with_name(f"{out.name}.parts"),
            out.with_name(f"{out.name}.plan.json"),
        )

    @property
    def is_single_file(self) -> bool:
        """Whether the parts become one file."""
        return self.out != self.work

    @property
    def listing(self) -> Path:
        return self.work / "files.jsonl"

    @property
    def lock(self) -> Path:
        return self.work / LOCK_FILE

    def part(self, index: int, form: str) -> Path:
        return self.work / f"part-{index:05d}{WRITERS[form].suffix}"


def create_work_folder(job_paths: JobPaths) -> None:
    """Make the folder that holds the parts.

    Raises:
        ConfigError: a file is in its way, or it cannot be made.
    """
    if job_paths.work.is_file() or (
        job_paths.is_single_file and job_paths.out.is_dir()
    ):
        kind = "file" if job_paths.work.is_file() else "folder"
        name = job_paths.work if job_paths.work.is_file() else job_paths.out
        raise ConfigError(
            f"{name} is a {kind}: `--out` names a file that ends in .jsonl, .csv or "
            ".parquet, or a folder for the parts."
        )
    make_folder(job_paths.work)


def remove_empty_work_folder(job_paths: JobPaths) -> None:
    """Remove the folder of parts unless another start uses it.

    The lock is free by now: another start may put its own there, or remove the folder,
    after any check, so only the removal itself can tell.
    """
    if not job_paths.is_single_file:
        return
    try:
        job_paths.work.rmdir()
    except OSError as error:
        if error.errno not in FOLDER_TAKEN_ERRNOS:
            raise


class ListedFile(NamedTuple):
    """A file as it was when the answers began."""

    path: str
    size: int
    mtime_ns: int
    """Nanoseconds of its last change."""


class FileListing(NamedTuple):
    """What is to be known of a written list."""

    files: int
    digest: str
    """SHA-256 of its lines."""
    part_offsets: tuple[int, ...]
    """Where each part begins, in bytes."""


def iter_listing_lines(files: Iterable[Path]) -> Iterator[bytes]:
    """The line of each file: its name, size and time."""
    for file in files:
        try:
            about = file.stat()
            listed = ListedFile(str(file), about.st_size, about.st_mtime_ns)
        except OSError:
            listed = ListedFile(str(file), -1, 0)  # gone meanwhile: its row will say so
        yield json.dumps(listed).encode() + b"\n"


def write_listing(
    job_paths: JobPaths, files: Iterable[Path], part_size: int
) -> FileListing:
    """List the files; `part_size` of them are a part."""

    def write(path: Path) -> None:
        with path.open("wb") as opened:
            opened.writelines(iter_listing_lines(files))

    write_atomic(job_paths.listing, write)
    return read_listing(job_paths, part_size)


def read_listing(job_paths: JobPaths, part_size: int) -> FileListing:
    """What an earlier start listed."""
    digest = hashlib.sha256()
    number, position, starts = 0, 0, []
    with job_paths.listing.open("rb") as lines:
        for line in lines:
            if number % part_size == 0:
                starts.append(position)
            digest.update(line)
            number, position = number + 1, position + len(line)
    return FileListing(number, digest.hexdigest(), tuple(starts))


def hash_lines(lines: Iterable[bytes]) -> str:
    """The SHA-256 of lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def require_same_files(job_paths: JobPaths, files: Iterable[Path]) -> None:
    """Compare the files with those that were listed.

    Raises:
        ConfigError: a file is new, gone or changed since; the first one is named.
    """
    with job_paths.listing.open("rb") as stored:
        for old, new in itertools.zip_longest(stored, iter_listing_lines(files)):
            if old == new:
                continue
            before = ListedFile(*json.loads(old)) if old else None
            now = ListedFile(*json.loads(new)) if new else None
            if before and now and before.path == now.path:
                what = f"{now.path} has changed"
            elif before and not os.path.exists(before.path):
                what = f"{before.path} is gone"
            elif now:
                what = f"{now.path} is new or in another place"
            else:
                what = f"{before.path if before else '?'} is not named any more"
            raise ConfigError(
                f"The answers in {job_paths.out} were begun for other files: {what} "
                "since. "
                "Bring the files back to what they were, or give another `--out`."
            )
