"""Random access to the examples of shards.

Readers cache open files and row groups; a pickled copy starts with empty caches.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from vitral.data.dataset import UnavailableError
from vitral.data.example import Example
from vitral.data.images import DecodedImage, decode
from vitral.data.shards.parquet import iter_record_batches
from vitral.data.sources import import_pyarrow
from vitral.errors import ImageError

_MAX_OPEN_FILES = 64
"""Number of files that a reader keeps open."""


@dataclass(frozen=True, slots=True)
class Shard:
    """State of a shard when it was indexed."""

    path: str
    """POSIX, relative to the root."""
    size: int
    version: int | str
    """mtime in ns, or the version that a remote file system gives."""


@runtime_checkable
class ShardFiles(Protocol):
    """Storage of shards; picklable."""

    def stat(self, path: str) -> tuple[int, int | str]:
        """Return size and version of a file."""

    def open(self, path: str) -> Any:
        """Return a path or an open file for pyarrow."""

    def rows(self, shard: Shard, group: int, read: Callable[[], Any]) -> Any:
        """Return a row group from a cache, else from `read`.

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
    """Thread-safe cache of the `capacity` values used last; pickled empty."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return LruCache, (self.capacity,)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        # Under the lock, or two threads would both read a row group.
        with self._lock:
            if key not in self._values:
                while len(self._values) >= self.capacity:
                    self._values.popitem(last=False)
                self._values[key] = make()
            self._values.move_to_end(key)
            return self._values[key]


@dataclass(frozen=True, kw_only=True)
class _ShardReader:
    """Shards by the first number of an example's location, and their open files."""

    shards: tuple[Shard, ...]
    open_files: LruCache = field(
        default_factory=lambda: LruCache(_MAX_OPEN_FILES), compare=False
    )


@dataclass(frozen=True, kw_only=True)
class TarReader(_ShardReader):
    """Read a member by its offset and size."""

    concurrent: ClassVar[bool] = True
    root: Path

    def __call__(self, example: Example) -> DecodedImage:
        index, offset, size = example.location
        shard = self.shards[index]
        file = self.open_files.get(index, lambda: _Descriptor(self.root / shard.path))
        status = os.fstat(file.fd)
        refuse_changed(shard, status.st_size, status.st_mtime_ns)
        content = os.pread(file.fd, size, offset)
        if len(content) < size:
            raise ImageError(f"only {len(content)} of {size} bytes could be read")
        return decode(content)


class _Descriptor:
    """File descriptor that is closed with its last reference."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        try:
            self.fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise vanished_error(str(path), error) from error

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


@dataclass(frozen=True, kw_only=True)
class ParquetReader(_ShardReader):
    """Read a row from its row group; the row groups used last stay in memory."""

    files: ShardFiles
    column: str
    groups: LruCache
    """Holds as many row groups as the order mixes, or each would be read many times."""

    def __call__(self, example: Example) -> DecodedImage:
        index, group, row = example.location
        table = self.groups.get((index, group), lambda: self.load(index, group))
        return _decode_value(table[row])

    def load(self, index: int, group: int) -> Any:
        """Load the pictures of one row group."""
        shard = self.shards[index]
        return self.files.rows(shard, group, lambda: self._read(index, group))

    def _read(self, index: int, group: int) -> Any:
        shard = self.shards[index]
        refuse_changed(shard, *self.files.stat(shard.path))
        file = self.open_files.get(index, lambda: self._open(shard))
        return file.read_row_group(group, columns=[self.column]).column(0)

    def _open(self, shard: Shard) -> Any:
        arrow = import_pyarrow(shard.path)
        # pre_buffer reads a row group's column in few large requests.
        return arrow.parquet.ParquetFile(self.files.open(shard.path), pre_buffer=True)


@dataclass(frozen=True, kw_only=True)
class ArrowReader(_ShardReader):
    """Read a row of a memory-mapped file."""

    root: Path
    column: str

    def __call__(self, example: Example) -> DecodedImage:
        index, batch, row = example.location
        columns = self.open_files.get(index, lambda: self._open(self.shards[index]))
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
            pass  # the file was cut off there when it was indexed, too
        return columns


def refuse_changed(shard: Shard, size: int, version: int | str) -> None:
    """Check that a file has not changed since it was indexed."""
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
    picture = value.as_py()
    content = picture.get("bytes") if isinstance(picture, dict) else picture
    if not content:
        raise ImageError("the row holds no picture; one that is a path is not followed")
    return decode(content)
