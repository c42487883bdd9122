"""Interface of an opened weights file, for every format."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitral.errors import WeightsError

MAX_NAME_LENGTH = 120
"""Most characters of a file's name in a message."""
MAX_DIMENSIONS = 32
ALIGNMENT = 64
"""Bytes, as torch's own memory. MKL's float64 products differ in the last bits where a
tensor does not begin at a multiple of 16 bytes, as one mapped from a file may."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and type of a tensor whose data are not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int = 0
    """Offset of its bytes in a safetensors file."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile(ABC):
    """An opened weights file: names and shapes at once, data on demand."""

    path: Path
    format: str
    """safetensors, npz or pickle."""
    metadata: dict[str, str]
    """Metadata of a safetensors file; empty for other formats."""

    def __init__(
        self,
        path: Path,
        entries: dict[str, TensorInfo],
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.path, self.metadata, self._entries = path, dict(metadata or {}), entries

    def names(self) -> list[str]:
        """Return the tensors' names, in the file's order."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; no data are read."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the precision of a tensor in the file."""
        return self._entry(name).dtype

    def nbytes(self) -> int:
        """Return the bytes of all tensors when they are read."""
        return sum(entry.nbytes for entry in self._entries.values())

    def disk_size(self) -> int:
        """Return the bytes of the file, or of all files that hold the tensors."""
        return self.path.stat().st_size

    def read(self, name: str) -> Tensor:
        """Read a tensor, on the CPU, in the file's precision.

        Raises:
            WeightsError: there is no such tensor, the file is damaged, or a value is
                not finite.
        """
        entry = self._entry(name)
        tensor = self._data(name)
        where = f"{printable_path(self.path)}: tensor {printable_name(name)}"
        if tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
            raise WeightsError(
                f"{where} is not what it was when the file was opened. Do not write to "
                "a file that is being read."
            )
        if not all_finite(tensor):
            raise WeightsError(
                f"{where} has values that are not finite, so the model would answer "
                "NaN. Use an earlier checkpoint."
            )
        return tensor

    @abstractmethod
    def _data(self, name: str) -> Tensor:
        """Read an existing tensor, unchecked."""

    def _entry(self, name: str) -> TensorInfo:
        if name not in self._entries:
            raise WeightsError(
                f"{printable_path(self.path)} has no tensor {printable_name(name)}. It "
                "is the file of another model, or its names are of another layout."
            )
        return self._entries[name]


class _RenamedFile(TensorFile):
    """A file under other names; messages use the names that the file has."""

    def __init__(
        self, file: TensorFile, names: Mapping[str, str | tuple[str, int]]
    ) -> None:
        self.format, self._file, self._names = file.format, file, dict(names)
        self._last: tuple[str, Tensor] | None = None
        entries = {}
        for new, old in self._names.items():
            name = old if isinstance(old, str) else old[0]
            shape = file.shape(name) if isinstance(old, str) else file.shape(name)[1:]
            entries[new] = TensorInfo(shape, file.dtype(name))
        super().__init__(file.path, entries, file.metadata)

    def _data(self, name: str) -> Tensor:
        old = self._names[name]
        if isinstance(old, str):
            return self._file.read(old)
        stack, index = old
        if self._last is None or self._last[0] != stack:
            self._last = (stack, self._file.read(stack))
        return self._last[1][index]

    def read(self, name: str) -> Tensor:
        self._entry(name)
        return self._data(name)

    def disk_size(self) -> int:
        return self._file.disk_size()


def with_names(
    file: TensorFile, names: Mapping[str, str | tuple[str, int]]
) -> TensorFile:
    """Return a view of `file` with the tensors of `names` (new name to old) only.

    A pair of an old name and an index stands for that row of the tensor's first axis.

    Raises:
        WeightsError: an old name is not in the file.
    """
    return _RenamedFile(file, names)


def all_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite; integers always pass."""
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.is_complex():
        return bool(torch.isfinite(tensor).all())
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()
    # One pass without temporaries: both extremes are NaN when any value is.
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def align(tensor: Tensor) -> Tensor:
    """Return `tensor`, or a copy of it where its memory is not aligned."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Return inode, size and time: they change when the file is written to."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_bytes(path: Path, start: int, nbytes: int, stamp: tuple[int, ...]) -> Tensor:
    """Read bytes of a file into new memory; mapped pages would stay beside the copy."""
    raw = torch.empty(nbytes, dtype=torch.uint8)
    try:
        with path.open("rb") as file:
            file.seek(start)
            done = file.readinto(raw.numpy().data)
        same = done == nbytes and file_stamp(path) == stamp
    except OSError:
        same = False
    if not same:
        raise WeightsError(
            f"{printable_path(path)} was changed or removed after it was opened. Leave "
            "a file that is being read as it is, and open it again."
        )
    return raw


def check_shape(shape: object, nbytes: int, itemsize: int) -> str | None:
    """Return why `shape` cannot be that of `nbytes` bytes; None when it can."""
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        return f"has no shape of at most {MAX_DIMENSIONS} numbers"
    if not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        return "has a size that is not a whole number from 0 to 2^63"
    expected = math.prod(shape) * itemsize
    if expected != nbytes:
        return (
            f"needs {format_int(expected)} bytes for its shape but has "
            f"{format_int(nbytes)}"
        )
    return None


def format_int(value: int) -> str:
    """Format an integer in at most about twenty characters."""
    return str(value) if abs(value) < 10**20 else "more than 10^20"


def printable_name(name: object) -> str:
    """Return a name from a file on one line, shortened, without control characters."""
    text = str(name) if isinstance(name, str) else type(name).__name__
    cut = text[:MAX_NAME_LENGTH] + ("..." if len(text) > MAX_NAME_LENGTH else "")
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def printable_path(path: Path) -> str:
    """Return a path on one line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def one_line(error: BaseException) -> str:
    """Return the message of a library's error on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return printable_name(text).rstrip(".")
