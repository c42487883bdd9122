"""Memory that decoders write images to and the model reads them from.

A file without a name: pixels do not pass through the server process, which would copy
0.6 MB an image four times.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence

_ALIGNMENT = 64
"""Bytes to which a slot is rounded, as torch aligns its own memory."""


class Arena:
    """Slots of one size, by the bytes at which they begin; the server's side."""

    def __init__(self) -> None:
        self.descriptor = _open_nameless_file()
        self._free: list[int] = []

    def divide(self, size: int, slots: int) -> None:
        """Make so many free slots of at least `size` bytes; memory comes with use."""
        size += -size % _ALIGNMENT
        os.ftruncate(self.descriptor, size * slots)
        # Those that were used last are taken first: their memory is there already.
        self._free = [size * slot for slot in reversed(range(slots))]

    def take(self) -> int:
        """Return the start of a free slot; the caller counts them."""
        return self._free.pop()

    def give_back(self, start: int) -> None:
        """Free a slot."""
        self._free.append(start)

    def close(self) -> None:
        """Close the file; its memory is free once nobody maps it."""
        os.close(self.descriptor)


def map_arena(descriptor: int) -> mmap.mmap:
    """Map a divided arena in a process that reads or writes slots."""
    return mmap.mmap(descriptor, 0)


def slot_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of an image of this shape in float32."""
    size = 4
    for side in shape:
        size *= side
    return size


def _open_nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vitral-images")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
