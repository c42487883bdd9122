"""Worker processes that build requested items ahead of their use.

Hand-written around DataLoader, which takes one sampler for its life: living workers
get one series of tasks after another and terminate with their parent.
"""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vitral.child_process import end_children_on_interrupt, get_process_context
from vitral.errors import ConfigError, VitralError

T = TypeVar("T", covariant=True)

_POLL_SECONDS = 3.0
_PREFETCH_FACTOR = 2
"""Tasks per worker that are sent before their results are read."""
# The slow imports by name too: a Python 3.11 fork server does not inherit sys.path, so
# it silently skips a vitral that is importable through it alone.
_PRELOAD = [
    "torch.utils.data",
    "torchvision.transforms.v2",
    "vitral.data.loading.loader",
]


def map_in_workers(
    builder: Dataset[T | VitralError],
    tasks: Iterable[Any],
    *,
    workers: int,
    timeout: float,
) -> Iterator[T]:
    """Yield `builder[task]` for each task, in order, from `Workers` of this call."""
    remaining = iter(tasks)
    head = list(itertools.islice(remaining, workers))
    pool = Workers(builder, workers=max(1, len(head)), timeout=timeout)
    yield from pool.results(itertools.chain(head, remaining))


class Workers(Generic[T]):
    """Processes that serve one series of tasks after another, and end with this object.

    For a small data set, starting them takes as long as an epoch.

    Args:
        builder: called as `builder[task]` in the processes. It returns errors for the
            caller: the text of a raised one would contain a traceback. It is sent once,
            so later changes have no effect.
        workers: number of processes.
        timeout: seconds that they may take for one result. 0: no limit.
    """

    def __init__(
        self, builder: Dataset[T | VitralError], *, workers: int, timeout: float
    ) -> None:
        self.timeout = timeout
        self._sampler = _TaskSampler()
        self._owner = os.getpid()
        self._started = False
        self._is_busy = False
        self._loader: DataLoader[T | VitralError] = DataLoader(
            builder,
            batch_size=None,
            sampler=self._sampler,
            num_workers=workers,
            collate_fn=_identity,
            worker_init_fn=_end_with_parent,
            timeout=_POLL_SECONDS,
            multiprocessing_context=_context(),
            persistent_workers=True,
            prefetch_factor=_PREFETCH_FACTOR,
            # Without it, DataLoader draws from torch's global generator per series.
            generator=torch.Generator(),
        )

    @property
    def is_free(self) -> bool:
        """Return whether a series can start: the last one was read to its end, and
        this process started the workers."""
        return not self._is_busy and self._owner == os.getpid()

    def results(self, tasks: Iterable[Any]) -> Iterator[T]:
        """Yield `builder[task]` for each task, in order.

        Tasks are read lazily, two ahead per worker: neither they nor the results need
        to fit into memory.

        Raises:
            VitralError: a worker died or exceeded the time, or the builder returned
                this error. The processes cannot be used again.
            ConfigError: builder or tasks cannot be pickled.
        """
        assert self.is_free
        self._is_busy = True
        iterator = self._submit(tasks)
        end = object()
        while (result := _next_result(iterator, self.timeout, end)) is not end:
            if isinstance(result, VitralError):
                raise result
            yield result
        self._is_busy = False

    def _submit(self, tasks: Iterable[Any]) -> Iterator[Any]:
        remaining = iter(tasks)
        head = list(itertools.islice(remaining, 1))
        self._sampler.tasks = itertools.chain(head, remaining)
        try:
            ForkingPickler.dumps(head)  # a worker's queue would not report the error
            if not self._started:
                with end_children_on_interrupt():
                    iterator = iter(self._loader)
                self._started = True
                return iterator
        except Exception as error:
            raise ConfigError(
                "The transform or reader cannot be sent to "
                f"{self._loader.num_workers} worker(s): {error}. Define it at the top "
                "of a module, or use workers=0."
            ) from error
        try:
            return iter(self._loader)
        except RuntimeError as error:  # one died since the last series
            raise VitralError(_worker_death_message(str(error))) from error


def prefetch_limit(workers: int) -> int:
    """Return the largest number of results in progress or waiting to be read."""
    return _PREFETCH_FACTOR * workers


class _TaskSampler(Sampler[Any]):
    """Sampler of the next series: yields its tasks lazily."""

    tasks: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.tasks


def _next_result(iterator: Iterator[Any], timeout: float, end: object) -> Any:
    waited = 0.0
    while True:
        try:
            return next(iterator, end)
        except RuntimeError as error:
            text = str(error)
            if "exited unexpectedly" in text:
                raise VitralError(_worker_death_message(text)) from error
            if "timed out after" not in text:
                raise
            # torch checks for dead workers once per timeout only, hence short ones;
            # the next call continues.
            waited += _POLL_SECONDS
            if timeout and waited >= timeout:
                raise VitralError(
                    f"Loader workers gave no batch for {waited:g} seconds. A file "
                    "or the storage hangs. Use workers=0 to see where, or raise "
                    "timeout."
                ) from error


def _context() -> BaseContext:
    """Return the start method: a fork server, else spawn.

    Not "fork": a training process has threads (OpenMP, autograd, CUDA), and a child
    forked while one holds a lock deadlocks. "spawn" imports torch in every worker of
    every epoch (seconds each). A fork server imports this package once and forks
    workers in milliseconds.
    """
    return get_process_context("forkserver", _PRELOAD)


def _end_with_parent(worker: int) -> None:
    """Exit when the process that reads the batches is killed.

    torch watches the worker's parent, which is the fork server, and that server waits
    for its last worker.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=_exit_after, args=(parent.sentinel,), daemon=True
        ).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _identity(value: Any) -> Any:
    return value


def _worker_death_message(text: str) -> str:
    return (
        f"A loader worker died ({' '.join(text.split())}). Usual causes are too little "
        "memory, a full /dev/shm, or a script that starts workers outside "
        "`if __name__ == '__main__':`. Use fewer workers, a smaller batch_size, or "
        "workers=0."
    )
