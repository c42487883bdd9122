"""Read batches of files ahead, while the model computes earlier ones."""

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitral.data import Preprocess, Size
from vitral.data.loading import map_in_threads, map_in_workers, one_thread
from vitral.errors import ImageError, VitralError

MIN_BATCHES_FOR_WORKERS = 8
"""Fewer batches take less time than the start of a worker."""
WORKER_TIMEOUT = 300.0
"""Seconds to wait for one batch of the workers."""


class FileBatch(NamedTuple):
    """A decoded batch of files."""

    paths: tuple[Path, ...]
    pixels: Tensor | None
    """Stacked inputs of the readable files; None where none is readable."""
    reasons: tuple[str, ...]
    """Per file the error of reading it; empty for a readable file."""
    sizes: tuple[Size, ...] = ()
    """Of each readable file height and width in pixels; empty for clips."""


@dataclass(frozen=True)
class BatchReader(Dataset[FileBatch | VitralError]):
    """Dataset over batches of paths: reads files as evaluation does."""

    preprocess: Preprocess

    def __getitem__(self, paths: tuple[Path, ...]) -> FileBatch | VitralError:
        threads = self.preprocess.reader_threads(torch.get_num_threads())
        with one_thread():
            results = map_in_threads(self._read_file, paths, threads)
            for result in results:
                if isinstance(result, VitralError) and not isinstance(
                    result, ImageError
                ):
                    return result
            readable = [result for result in results if isinstance(result, tuple)]
            pixels = torch.stack([item[0] for item in readable]) if readable else None
        reasons = (
            "" if isinstance(result, tuple) else str(result) for result in results
        )
        sizes = tuple(size for _, size in readable if size is not None)
        return FileBatch(paths, pixels, tuple(reasons), sizes)

    def _read_file(self, path: Path) -> tuple[Tensor, Size | None] | VitralError:
        try:
            return self.preprocess.load_with_size(path)
        except VitralError as error:
            return error


class WaitTimer:
    """Iterate over batches, and measure how long their consumer waits for them."""

    def __init__(self, batches: Iterator[FileBatch]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def pop_seconds(self) -> float:
        """Return the seconds waited since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def __iter__(self) -> Iterator[FileBatch]:
        while True:
            started = time.perf_counter()
            batch = next(self.batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def prefetch_batches(
    preprocess: Preprocess, batches: Iterable[Sequence[Path]], workers: int | None
) -> Iterator[FileBatch]:
    """Yield the batches of files in order, read ahead by `workers` processes.

    0 workers read on demand; None decides by the number of batches and processors.
    """
    reader = BatchReader(preprocess)
    tasks: Iterator[tuple[Path, ...]] = map(tuple, batches)
    if workers is None:
        head = list(itertools.islice(tasks, MIN_BATCHES_FOR_WORKERS))
        workers = default_workers() if len(head) == MIN_BATCHES_FOR_WORKERS else 0
        tasks = itertools.chain(head, tasks)
    if workers:
        yield from map_in_workers(
            reader, tasks, workers=workers, timeout=WORKER_TIMEOUT
        )
        return
    for task in tasks:
        batch = reader[task]
        if isinstance(batch, VitralError):
            raise batch
        yield batch


def default_workers() -> int:
    """Return 1 for a model on the CPU; for one on a GPU most of the CPUs, at most 8."""
    if torch.cuda.is_available():
        return max(1, min(8, (os.cpu_count() or 2) - 1))
    return 1
