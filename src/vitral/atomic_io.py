"""Atomic file writes: the old version or the new one, also after a power cut.

A write goes to a temporary name in the same folder, is flushed and renamed, and the
folder is flushed too: without the last step the rename itself can be lost.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".tmp"


def write_atomic(path: Path, content: bytes | str | Callable[[Path], None]) -> None:
    """Write `content` to `path` so that a reader never sees half of it.

    Args:
        path: the final name; its folder must exist.
        content: bytes, text (written as UTF-8), or a function that writes to the
            temporary path it is given.

    Raises:
        OSError: the disk is full or the folder cannot be written. The old file, if
            any, is untouched and the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        if callable(content):
            # Some libraries write 0600 whatever the umask says.
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            temporary.unlink()
            content(temporary)
            if temporary.is_file():
                temporary.chmod(mode)
        else:
            data = content.encode() if isinstance(content, str) else content
            temporary.write_bytes(data)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_unlinked(path: str | Path, flags: int) -> int:
    """Open as `os.open`, for the `opener` of `open`; a link is not followed.

    Raises:
        OSError: ELOOP: the file is a link, which may name any file of the user.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and flush their names.

    Files flushed in a folder whose own name is not flushed are lost with it.
    """
    new = [folder]
    while not new[-1].parent.is_dir():
        new.append(new[-1].parent)
    folder.mkdir(parents=True, exist_ok=True)
    for folder_made in new:
        # A shared parent folder may not be readable, so it cannot be flushed.
        with contextlib.suppress(PermissionError):
            sync_folder(folder_made.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
