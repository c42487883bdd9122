"""Batches of files as they enter a model, read while the model is busy with others."""

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

from vitral.data.images import Preprocess
from vitral.data.loading import map_in_threads, map_in_workers, one_thread
from vitral.errors import ImageError, VitralError
from vitral.workflows.inputs import load_input

MIN_BATCHES_FOR_WORKERS = 8
"""Batches below which a worker starts for longer than it helps."""
WORKER_TIMEOUT = 300.0
"""Seconds that workers may take for one batch."""


class FileBatch(NamedTuple):
    """What came of a batch of files."""

    paths: tuple[Path, ...]
    pixels: Tensor | None
    """Of the files that could be read, stacked; None where none could."""
    reasons: tuple[str, ...]
    """Why each file could not be read; empty for one that could."""


@dataclass(frozen=True)
class BatchReader(Dataset[FileBatch | VitralError]):
    """Reads the files of a batch as they are evaluated."""

    preprocess: Preprocess

    def __getitem__(self, paths: tuple[Path, ...]) -> FileBatch | VitralError:
        # Clips are decoded by one other process.
        threads = torch.get_num_threads() if self.preprocess.sampling is None else 1
        with one_thread():
            found = map_in_threads(self._read_file, paths, threads)
            for result in found:
                if isinstance(result, VitralError) and not isinstance(
                    result, ImageError
                ):
                    return result
            readable = [result for result in found if isinstance(result, Tensor)]
            pixels = torch.stack(readable) if readable else None
        reasons = (
            "" if isinstance(result, Tensor) else str(result) for result in found
        )
        return FileBatch(paths, pixels, tuple(reasons))

    def _read_file(self, path: Path) -> Tensor | VitralError:
        try:
            return load_input(self.preprocess, path)
        except VitralError as error:
            return error


class WaitTimer:
    """How long the taker of an iterator waited for it."""

    def __init__(self, batches: Iterator[FileBatch]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def pop_seconds(self) -> float:
        """Seconds since this was last asked."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def __iter__(self) -> Iterator[FileBatch]:
        while True:
            began = time.perf_counter()
            batch = next(self.batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def prefetch_batches(
    preprocess: Preprocess,
    batches: Iterable[Sequence[Path]],
    workers: int | None,
) -> Iterator[FileBatch]:
    """Each batch of files, read; the order stays.

    Args:
        workers: processes that read ahead; 0 reads when asked, None decides by the
            number of batches and processors.

    Raises:
        VitralError: a worker died or hangs, or an extra is missing.
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
        read = reader[task]
        if isinstance(read, VitralError):
            raise read
        yield read


def default_workers() -> int:
    """One beside a model on the processor; beside a GPU most of the processors."""
    if torch.cuda.is_available():
        return max(1, min(8, (os.cpu_count() or 2) - 1))
    return 1
