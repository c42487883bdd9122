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
from vitral.data.loading import in_threads, in_workers, one_thread
from vitral.errors import ImageError, VitralError
from vitral.workflows.inputs import pixels_of

WORTH_A_WORKER = 8
"""Batches below which a worker starts for longer than it helps."""
TIMEOUT = 300.0
"""Seconds that workers may take for one batch."""


class Read(NamedTuple):
    """What came of a batch of files."""

    paths: tuple[Path, ...]
    pixels: Tensor | None
    """Of the files that could be read, stacked; None where none could."""
    reasons: tuple[str, ...]
    """Why each file could not be read; empty for one that could."""


@dataclass(frozen=True)
class Reader(Dataset[Read | VitralError]):
    """Reads the files of a batch as they are evaluated."""

    preprocess: Preprocess

    def __getitem__(self, paths: tuple[Path, ...]) -> Read | VitralError:
        # Clips are decoded by one other process.
        threads = torch.get_num_threads() if self.preprocess.sampling is None else 1
        with one_thread():
            found = in_threads(self._read, paths, threads)
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
        return Read(paths, pixels, tuple(reasons))

    def _read(self, path: Path) -> Tensor | VitralError:
        try:
            return pixels_of(self.preprocess, path)
        except VitralError as error:
            return error


class Waiting:
    """How long the taker of an iterator waited for it."""

    def __init__(self, batches: Iterator[Read]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def taken(self) -> float:
        """Seconds since this was last asked."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def __iter__(self) -> Iterator[Read]:
        while True:
            began = time.perf_counter()
            batch = next(self.batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def read_ahead(
    preprocess: Preprocess,
    batches: Iterable[Sequence[Path]],
    workers: int | None,
) -> Iterator[Read]:
    """Each batch of files, read; the order stays.

    Args:
        workers: processes that read ahead; 0 reads when asked, None decides by the
            number of batches and processors.

    Raises:
        VitralError: a worker died or hangs, or an extra is missing.
    """
    reader = Reader(preprocess)
    tasks: Iterator[tuple[Path, ...]] = map(tuple, batches)
    if workers is None:
        head = list(itertools.islice(tasks, WORTH_A_WORKER))
        workers = default_workers() if len(head) == WORTH_A_WORKER else 0
        tasks = itertools.chain(head, tasks)
    if workers:
        yield from in_workers(reader, tasks, workers=workers, timeout=TIMEOUT)
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
