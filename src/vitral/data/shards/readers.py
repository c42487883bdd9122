"""Reading one example out of a shard, wherever in it.

Readers keep open files and row groups for themselves; a copy that a worker receives
starts without any.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from vitral.data.dataset import Example, UnavailableError
from vitral.data.images import DecodedImage, decode
from vitral.data.shards.parquet import image_bytes, import_pyarrow, iter_record_batches
from vitral.errors import ImageError

_MAX_OPEN_FILES = 64
"""Files that a reader holds open."""


class Shard(NamedTuple):
    """A shard as it was when its index was taken."""

    path: str
    """POSIX, relative to the root."""
    size: int
    version: int | str
    """Time of change in ns, or what a remote system says instead."""


@runtime_checkable
class ShardFiles(Protocol):
    """Where shards are; picklable."""

    def stat(self, path: str) -> tuple[int, int | str]:
        """Size and what differs when the file does."""

    def open(self, path: str) -> Any:
        """What pyarrow reads: a path, or an open file."""

    def rows(self, shard: Shard, group: int, read: Callable[[], Any]) -> Any:
        """A row group as `read` gives it, or a copy that is nearer.

        Raises:
            UnavailableError: the file is gone.
        """


@dataclass(frozen=True)
class LocalFiles:
    """Files below a folder."""

    root: Path

    def stat(self, path: str) -> tuple[int, int | str]:
        status = (self.root / path).stat()
        return status.st_size, status.st_mtime_ns

    def open(self, path: str) -> Any:
        return str(self.root / path)

    def rows(self, shard: Shard, group: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except FileNotFoundError as error:
            raise vanished_error(shard.path, error) from error


class LruCache:
    """The values used last, up to a number; safe to share between threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return LruCache, (self.capacity,)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        # Made under the lock, or two threads would both read a row group.
        with self._lock:
            if key not in self._values:
                while len(self._values) >= self.capacity:
                    self._values.popitem(last=False)
                self._values[key] = make()
            self._values.move_to_end(key)
            return self._values[key]


@dataclass(frozen=True, kw_only=True)
class TarReader:
    """Read a member by its offset and size."""

    concurrent: ClassVar[bool] = True
    root: Path
    shards: tuple[Shard, ...]
    open_files: LruCache = field(
        default_factory=lambda: LruCache(_MAX_OPEN_FILES), compare=False
    )

    def __call__(self, example: Example) -> DecodedImage:
        number, offset, size = example.location
        shard = self.shards[number]
        file = self.open_files.get(number, lambda: _Descriptor(self.root / shard.path))
        status = os.fstat(file.number)
        refuse_changed(shard, status.st_size, status.st_mtime_ns)
        content = os.pread(file.number, size, offset)
        if len(content) < size:
            raise ImageError(f"only {len(content)} of {size} bytes could be read")
        return decode(content)


class _Descriptor:
    """A file that is closed when nobody reads it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        try:
            self.number = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise vanished_error(str(path), error) from error

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@dataclass(frozen=True, kw_only=True)
class ParquetReader:
    """Read a row out of its row group, of which the last few stay in memory."""

    files: ShardFiles
    shards: tuple[Shard, ...]
    column: str
    groups: LruCache
    """As many as the order of examples mixes, or each would be read many times."""
    open_files: LruCache = field(
        default_factory=lambda: LruCache(_MAX_OPEN_FILES), compare=False
    )

    def __call__(self, example: Example) -> DecodedImage:
        number, group, row = example.location
        table = self.groups.get((number, group), lambda: self.load(number, group))
        return _decode_value(table[row])

    def load(self, number: int, group: int) -> Any:
        """The pictures of one row group."""
        shard = self.shards[number]
        return self.files.rows(shard, group, lambda: self._read(number, group))

    def _read(self, number: int, group: int) -> Any:
        shard = self.shards[number]
        refuse_changed(shard, *self.files.stat(shard.path))
        file = self.open_files.get(number, lambda: self._open(shard))
        return file.read_row_group(group, columns=[self.column]).column(0)

    def _open(self, shard: Shard) -> Any:
        arrow = import_pyarrow(shard.path)
        # Reads the column's parts of a row group in few pieces.
        return arrow.parquet.ParquetFile(self.files.open(shard.path), pre_buffer=True)


@dataclass(frozen=True, kw_only=True)
class ArrowReader:
    """Read a row of a mapped file."""

    root: Path
    shards: tuple[Shard, ...]
    column: str
    open_files: LruCache = field(
        default_factory=lambda: LruCache(_MAX_OPEN_FILES), compare=False
    )

    def __call__(self, example: Example) -> DecodedImage:
        number, batch, row = example.location
        columns = self.open_files.get(number, lambda: self._open(self.shards[number]))
        return _decode_value(columns[batch][row])

    def _open(self, shard: Shard) -> list[Any]:
        path = self.root / shard.path
        try:
            status = path.stat()
        except OSError as error:
            raise vanished_error(str(path), error) from error
        refuse_changed(shard, status.st_size, status.st_mtime_ns)
        columns: list[Any] = []
        try:
            for batch in iter_record_batches(str(path), shard.path):
                columns.append(batch.column(self.column))
        except (import_pyarrow(shard.path).ArrowException, OSError):
            pass  # it was cut off there when the index was taken, too
        return columns


def refuse_changed(shard: Shard, size: int, version: int | str) -> None:
    """Stop where offsets may mean something else by now.

    Raises:
        UnavailableError: the file is not the one that the index was taken from.
    """
    if (size, version) != (shard.size, shard.version):
        raise UnavailableError(
            f"{shard.path} changed while it was in use: it had {shard.size:,} bytes "
            f"and has {size:,}, or was written again. Restore it and go on with "
            "--resume, or start a new run."
        )


def vanished_error(path: str, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"{path} can no longer be opened ({error.strerror or error}). Restore it and "
        "go on with --resume, or start a new run."
    )


def _decode_value(value: Any) -> DecodedImage:
    content = image_bytes(value)
    if not content:
        raise ImageError("the row holds no picture; one that is a path is not followed")
    return decode(content)
