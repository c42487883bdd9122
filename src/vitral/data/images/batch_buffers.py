"""Memory for large batches: in large pages, and used again once a batch is gone.

The first touch of the pages of a fresh batch takes as long as normalising does.
"""

import contextlib
import math
import mmap
import threading
import weakref

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MIN_POOLED_BYTES = 2**22
"""Bytes: two of the large pages of most systems."""
_MAX_IDLE = 2  # one batch is in use while the next is built


class _BufferPool:
    """Memory of the size that was last asked for and that nobody uses."""

    def __init__(self) -> None:
        # Giving back happens in the middle of anything, taking included.
        self.lock = threading.RLock()
        self.size = 0
        self.idle: list[mmap.mmap] = []

    def acquire(self, size: int) -> mmap.mmap:
        with self.lock:
            if size != self.size:
                self.size, self.idle = size, []
            if self.idle:
                return self.idle.pop()
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a system that was built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def release(self, memory: mmap.mmap) -> None:
        with self.lock:
            if len(memory) == self.size and len(self.idle) < _MAX_IDLE:
                self.idle.append(memory)


_pool = _BufferPool()


def empty(shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """A float32 tensor of any values; a large one in large pages, where the system has
    them, which return to the shelf with the last tensor that uses them."""
    size = 4 * math.prod(shape)
    if size < MIN_POOLED_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape)
    memory = _pool.acquire(size)
    array = np.frombuffer(memory, np.float32)
    weakref.finalize(array, _pool.release, memory).atexit = False
    return torch.frombuffer(array, dtype=torch.float32).view(shape)
