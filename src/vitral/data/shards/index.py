"""What is in a shard and where, kept so that a large one is gone through only once.

The index of a shard is a file in a cache folder, never beside the data. Processes that
build the same index at once each write a whole one, and the last takes the name.
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
"""Of the index files; raise it when what is written below changes."""
_HASHED_BYTES = 65_536


@dataclass(kw_only=True)
class ShardIndex:
    """The examples of one shard, as columns, in the order of the file."""

    keys: list[str] = field(default_factory=list)
    """The second half of an id: the name of a member, the number of a row."""
    first: list[int] = field(default_factory=list)
    """Where an example is: its offset in a tar file, or its row group or batch."""
    second: list[int] = field(default_factory=list)
    """The bytes of its picture, or the row in the group."""
    codes: list[int] = field(default_factory=list)
    """The labels of each example, as an index into `vocabulary`."""
    vocabulary: list[list[str]] = field(default_factory=list)
    """Every combination of labels that occurs."""
    source: str = ""
    """Where labels come from, such as ".cls" or "column label"."""
    names: list[str] = field(default_factory=list)
    """Class names that the file brings; labels are then indices into them."""
    column: str = ""
    """Of the pictures, in a file with columns."""
    group_bytes: int = 0
    """The largest row group in memory; 0 where examples are read one by one."""
    ignored: list[list[str]] = field(default_factory=list)
    """[name, reason] of what is not an example."""
    fault: str = ""
    """Why not all of the file could be read; "" if it could."""

    def add(self, key: str, first: int, second: int, labels: tuple[str, ...]) -> None:
        self.keys.append(key)
        self.first.append(first)
        self.second.append(second)
        self.codes.append(self._label_code(labels))

    def _label_code(self, labels: tuple[str, ...]) -> int:
        known = self.__dict__.setdefault("_known", {})
        if labels not in known:
            known[labels] = len(self.vocabulary)
            self.vocabulary.append(list(labels))
        return int(known[labels])


def load_or_build_index(
    path: str, stamp: tuple[Any, ...], cache: Path, build: Callable[[], ShardIndex]
) -> ShardIndex:
    """The index of a shard, from the cache if it holds one.

    Args:
        path: which shard; with `stamp` what the cached index must be of.
        stamp: changes whenever the shard does.
        cache: the folder of the indices. If it cannot be written nothing is kept.
    """
    key = hashlib.sha256(json.dumps([VERSION, path, *stamp]).encode()).hexdigest()
    file = cache / f"{key}.json"
    found = _read_index(file)
    if found is None:
        found = build()
        values = {each.name: getattr(found, each.name) for each in fields(found)}
        content = json.dumps(values, separators=(",", ":"))
        digest = hashlib.sha256(content.encode()).hexdigest()
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(file, f"{digest}\n{content}")
        except OSError:
            return found  # a cache is a convenience: the next start builds it again
    return found


def file_stamp(path: Path) -> tuple[int, int, str]:
    """Size, time of change in ns and a hash of both ends of a local file."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_HASHED_BYTES))
        file.seek(max(status.st_size - _HASHED_BYTES, 0))
        digest.update(file.read(_HASHED_BYTES))
    return status.st_size, status.st_mtime_ns, digest.hexdigest()


def _read_index(file: Path) -> ShardIndex | None:
    """None where there is none, or a damaged one."""
    try:
        digest, _, content = file.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if hashlib.sha256(content.encode()).hexdigest() != digest:
        return None
    values = json.loads(content)
    names = {each.name for each in fields(ShardIndex)}
    return ShardIndex(**values) if set(values) == names else None
