"""Index of a shard, cached on disk so that a shard is scanned once.

Index files are in a cache folder, never next to the data. Processes that build the
same index at once each write it atomically; the last one wins.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic

VERSION = 1
"""Version of the index files; increase it when their content changes."""
_HASHED_BYTES = 65_536


@dataclass(kw_only=True)
class ShardIndex:
    """Examples of one shard as columns, in the order of the file."""

    keys: list[str] = field(default_factory=list)
    """The second half of an id: the name of a member, or the index of a row."""
    first: list[int] = field(default_factory=list)
    """Offset of the picture in a tar file; else its row group or record batch."""
    second: list[int] = field(default_factory=list)
    """Size of the picture in bytes; else its row in the group."""
    codes: list[int] = field(default_factory=list)
    """Index into `vocabulary` of each example's labels."""
    vocabulary: list[list[str]] = field(default_factory=list)
    """Every combination of labels that occurs."""
    source: str = ""
    """Source of the labels, such as ".cls" or "column label"."""
    names: list[str] = field(default_factory=list)
    """Class names in the file; labels are then indices into them."""
    column: str = ""
    """Name of the column of pictures; "" in a tar file."""
    group_bytes: int = 0
    """Bytes of the largest row group. 0: examples are read one by one."""
    ignored: list[list[str]] = field(default_factory=list)
    """[name, reason] of each member or row that is not an example."""
    fault: str = ""
    """Reason why the file was not read to its end; "" if it was."""

    def add(self, key: str, first: int, second: int, labels: tuple[str, ...]) -> None:
        self.keys.append(key)
        self.first.append(first)
        self.second.append(second)
        codes = self.__dict__.setdefault("_known", {})
        if labels not in codes:
            codes[labels] = len(self.vocabulary)
            self.vocabulary.append(list(labels))
        self.codes.append(codes[labels])


def load_or_build_index(
    path: str, stamp: tuple[Any, ...], cache: Path, build: Callable[[], ShardIndex]
) -> ShardIndex:
    """Return the index of a shard, from the cache if it is there.

    Args:
        path: path of the shard; with `stamp` the key of the cache.
        stamp: values that change whenever the shard does.
        cache: folder of the indices. If it is not writable, nothing is cached.
    """
    key = hashlib.sha256(json.dumps([VERSION, path, *stamp]).encode()).hexdigest()
    file = cache / f"{key}.json"
    index = _read_index(file)
    if index is None:
        index = build()
        values = {column.name: getattr(index, column.name) for column in fields(index)}
        content = json.dumps(values, separators=(",", ":"))
        digest = hashlib.sha256(content.encode()).hexdigest()
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(file, f"{digest}\n{content}")
        except OSError:
            return index  # the next start builds it again
    return index


def file_stamp(path: Path) -> tuple[int, int, str]:
    """Return size, mtime in ns and a hash of both ends of a local file."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_HASHED_BYTES))
        file.seek(max(status.st_size - _HASHED_BYTES, 0))
        digest.update(file.read(_HASHED_BYTES))
    return status.st_size, status.st_mtime_ns, digest.hexdigest()


def _read_index(file: Path) -> ShardIndex | None:
    """Return a cached index; None if it is missing or damaged."""
    try:
        digest, _, content = file.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if hashlib.sha256(content.encode()).hexdigest() != digest:
        return None
    values = json.loads(content)
    names = {column.name for column in fields(ShardIndex)}
    return ShardIndex(**values) if set(values) == names else None
