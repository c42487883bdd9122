"""Processes that build what they are sent, while others work with what they built.

What is built and in which order is the caller's; here is how workers start, that they
end with their parent, and what is said when one dies or hangs.
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

from vitral.errors import ConfigError, VitralError

T = TypeVar("T", covariant=True)

_POLL_SECONDS = 3.0
_PREFETCH_FACTOR = 2
"""Tasks that each worker has been sent beyond the results that were taken."""
# The slow imports by name too: a Python 3.11 server does not inherit sys.path, and
# passes over a vitral that is found through it alone.
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
    """What `builder[task]` gives for each task, in their order, by processes that
    start and end with them; see `Workers` for arguments and errors."""
    waiting = iter(tasks)
    head = list(itertools.islice(waiting, workers))
    crew = Workers(builder, workers=max(1, len(head)), timeout=timeout)
    yield from crew.results(itertools.chain(head, waiting))


class Workers(Generic[T]):
    """Processes that stay from one series of tasks to the next, and end with this
    object: starting them takes a small data set's epoch as long as its images do.

    Args:
        builder: called as `builder[task]` in the processes; returns the errors that
            the caller shall see: raised there, one would arrive with a traceback in
            its text. Sent once, so that later changes of it are not seen.
        workers: number of processes.
        timeout: seconds that they may take for one result; 0 waits for ever.
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
            # Or it would draw from torch's global generator, once per series.
            generator=torch.Generator(),
        )

    @property
    def is_free(self) -> bool:
        """Whether a series can begin: the last one was taken to its end, and this is
        the process that started them."""
        return not self._is_busy and self._owner == os.getpid()

    def results(self, tasks: Iterable[Any]) -> Iterator[T]:
        """What the builder gives for each task, in their order.

        Tasks are taken when their turn comes, two ahead for each worker, so that
        neither they nor the results need fit into memory.

        Raises:
            VitralError: a worker died or exceeded the time, or what the builder
                returned; the processes are then of no more use.
            ConfigError: builder or tasks cannot be sent to the workers.
        """
        assert self.is_free
        self._is_busy = True
        iterator = self._submit(tasks)
        ended = object()
        while (result := _next_result(iterator, self.timeout, ended)) is not ended:
            if isinstance(result, VitralError):
                raise result
            yield result
        self._is_busy = False

    def _submit(self, tasks: Iterable[Any]) -> Iterator[Any]:
        waiting = iter(tasks)
        head = list(itertools.islice(waiting, 1))
        self._sampler.tasks = itertools.chain(head, waiting)
        try:
            ForkingPickler.dumps(head)  # the queue of a worker would say nothing
            if not self._started:
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
    """The most results that are under way, or wait, when one is taken."""
    return _PREFETCH_FACTOR * workers


class _TaskSampler(Sampler[Any]):
    """The tasks of the series that comes next; each is sent when its turn comes."""

    tasks: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.tasks


def _next_result(iterator: Iterator[Any], timeout: float, ended: object) -> Any:
    waited = 0.0
    while True:
        try:
            return next(iterator, ended)
        except RuntimeError as error:
            text = str(error)
            if "exited unexpectedly" in text:
                raise VitralError(_worker_death_message(text)) from error
            if "timed out after" not in text:
                raise
            # torch looks for dead workers once per time-out only, hence short ones;
            # asking again continues where it was.
            waited += _POLL_SECONDS
            if timeout and waited >= timeout:
                raise VitralError(
                    f"Loader workers gave no batch for {waited:g} seconds. A file "
                    "or the storage hangs. Use workers=0 to see where, or raise "
                    "timeout."
                ) from error


def _context() -> BaseContext:
    """How workers start.

    Not "fork": a training process has threads (OpenMP, autograd, CUDA), and a child
    forked while one holds a lock hangs for ever. "spawn" imports torch again in every
    worker of every epoch (seconds each). A fork server imports this package once, does
    no work of its own, and forks workers in milliseconds.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Has an effect only before the server starts.
    context.set_forkserver_preload(_PRELOAD)
    return context


def _end_with_parent(worker: int) -> None:
    """Let a worker end when the process that reads its batches is killed.

    torch looks at the parent of the worker, which is the fork server; and that server
    waits for its last worker.
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
