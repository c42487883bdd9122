"""Paths of a prediction job, and the frozen list of its input files.

The list is one line of JSON per file, so that it is never in memory as a whole.
"""

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vitral.atomic_io import make_folder, write_atomic
from vitral.errors import ConfigError
from vitral.workflows.predict.writers import WRITERS, is_file_name
from vitral.workflows.run_lock import LOCK_FILE

FOLDER_TAKEN_ERRNOS = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
"""Errors of rmdir when another process came first."""


@dataclass(frozen=True, slots=True)
class JobPaths:
    """Paths of the output, the work folder and the plan of a job."""

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
        """Return whether the parts are merged into one file."""
        return self.out != self.work

    @property
    def listing(self) -> Path:
        return self.work / "files.jsonl"

    @property
    def lock(self) -> Path:
        return self.work / LOCK_FILE

    def answer_file(self, path: str, suffix: str) -> Path:
        """Return where a file goes that answers for the picture at `path`.

        The folders of the picture are kept, and its whole name: `a.jpg` and `a.png`
        of one folder have two answers.
        """
        folder = self.out.with_name(f"{self.out.stem}-files")
        if not self.is_single_file:
            folder = self.out / "files"
        source = Path(path)
        parents = [part for part in source.parent.parts if part not in ("..", "/")]
        return folder.joinpath(*parents, f"{source.name}{suffix}")

    def part(self, index: int, form: str) -> Path:
        return self.work / f"part-{index:05d}{WRITERS[form].suffix}"


class ListedFile(NamedTuple):
    """A file as it was when the job started; stored as a JSON array."""

    path: str
    size: int
    mtime_ns: int
    """Time of its last change in nanoseconds."""


@dataclass(frozen=True, slots=True)
class FileListing:
    """Summary of a written list of files."""

    files: int
    digest: str
    """SHA-256 of its lines."""
    part_offsets: tuple[int, ...]
    """Byte offset of the first line of each part."""


def create_work_folder(job_paths: JobPaths) -> None:
    """Create the folder that holds the parts."""
    if job_paths.work.is_file() or (
        job_paths.is_single_file and job_paths.out.is_dir()
    ):
        type_ = "file" if job_paths.work.is_file() else "folder"
        path = job_paths.work if job_paths.work.is_file() else job_paths.out
        raise ConfigError(
            f"{path} is a {type_}: `out` names a file that ends in .jsonl, .csv or "
            ".parquet, or a folder for the parts."
        )
    make_folder(job_paths.work)


def remove_empty_work_folder(job_paths: JobPaths) -> None:
    """Remove the folder of parts unless another start uses it.

    The lock is free by now, so another start may fill or remove the folder after any
    check: only the removal itself can tell.
    """
    if not job_paths.is_single_file:
        return
    try:
        job_paths.work.rmdir()
    except OSError as error:
        if error.errno not in FOLDER_TAKEN_ERRNOS:
            raise


def iter_listing_lines(files: Iterable[Path]) -> Iterator[bytes]:
    """Yield one JSON line per file: its path, size and time."""
    for file in files:
        try:
            stat = file.stat()
            listed = ListedFile(str(file), stat.st_size, stat.st_mtime_ns)
        except OSError:
            listed = ListedFile(
                str(file), -1, 0
            )  # removed meanwhile: its row holds the error
        yield json.dumps(listed).encode() + b"\n"


def write_listing(
    job_paths: JobPaths, files: Iterable[Path], part_size: int
) -> FileListing:
    """Write the list of the files; a part has `part_size` of them."""

    def write(path: Path) -> None:
        with path.open("wb") as listing:
            listing.writelines(iter_listing_lines(files))

    write_atomic(job_paths.listing, write)
    return read_listing(job_paths, part_size)


def read_listing(job_paths: JobPaths, part_size: int) -> FileListing:
    """Read the list that an earlier start wrote."""
    digest = hashlib.sha256()
    count, offset, part_offsets = 0, 0, []
    with job_paths.listing.open("rb") as lines:
        for line in lines:
            if count % part_size == 0:
                part_offsets.append(offset)
            digest.update(line)
            count, offset = count + 1, offset + len(line)
    return FileListing(count, digest.hexdigest(), tuple(part_offsets))


def hash_lines(lines: Iterable[bytes]) -> str:
    """Return the SHA-256 of all lines together."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def require_same_files(job_paths: JobPaths, files: Iterable[Path]) -> None:
    """Check that the files are those of the list."""
    with job_paths.listing.open("rb") as stored:
        for old, new in itertools.zip_longest(stored, iter_listing_lines(files)):
            if old == new:
                continue
            before = ListedFile(*json.loads(old)) if old else None
            now = ListedFile(*json.loads(new)) if new else None
            if before and now and before.path == now.path:
                change = f"{now.path} has changed"
            elif before and not os.path.exists(before.path):
                change = f"{before.path} is gone"
            elif now:
                change = f"{now.path} is new or in another place"
            else:
                change = f"{before.path if before else '?'} is not named any more"
            raise ConfigError(
                f"The answers in {job_paths.out} were begun for other files: {change} "
                "since. Bring the files back to what they were, or give another "
                "`out`."
            )
