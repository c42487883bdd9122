"""Processes that build what they are sent, while others work with what they built.

What is built and in which order is the caller's; here is how workers start, that they
end with their parent, and what is said when one dies or hangs.
"""

import itertools
import multiprocessing
from collections.abc import Iterable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from vitral.data.batches import end_with_parent
from vitral.errors import ConfigError, VitralError

T = TypeVar("T", covariant=True)

_POLL_SECONDS = 3.0
# The slow imports by name too: a Python 3.11 server does not inherit sys.path, and
# passes over a vitral that is found through it alone.
_PRELOAD = ["torch.utils.data", "torchvision.transforms.v2", "vitral.data.loader"]


def in_workers(
    builder: Dataset[T | VitralError],
    tasks: Iterable[Any],
    *,
    workers: int,
    timeout: float,
) -> Iterator[T]:
    """What `builder[task]` gives for each task, in their order.

    Tasks are taken when their turn comes, two ahead for each worker, so that neither
    they nor the results need fit into memory.

    Args:
        builder: returns the errors that the caller shall see; raised in a worker, one
            would arrive with a traceback in its text.
        timeout: seconds that workers may take for one result; 0 waits for ever.

    Raises:
        VitralError: a worker died or exceeded `timeout`, or what `builder` returned.
        ConfigError: `builder` cannot be sent to the workers.
    """
    waiting = iter(tasks)
    head = list(itertools.islice(waiting, workers))
    loader = DataLoader(
        builder,
        batch_size=None,
        sampler=itertools.chain(head, waiting),  # each is sent when its turn comes
        num_workers=max(1, len(head)),
        collate_fn=_unchanged,
        worker_init_fn=end_with_parent,
        timeout=_POLL_SECONDS,
        multiprocessing_context=_context(),
        persistent_workers=False,
        # Or the loader would draw from torch's global generator, once per epoch.
        generator=torch.Generator(),
    )
    try:
        ForkingPickler.dumps(head[:1])  # the queue of a worker would say nothing
        iterator = iter(loader)
    except Exception as error:
        raise ConfigError(
            f"The transform or reader cannot be sent to {workers} worker(s): "
            f"{error}. Define it at the top of a module, or use workers=0."
        ) from error
    ended = object()
    while (result := _next(iterator, timeout, ended)) is not ended:
        if isinstance(result, VitralError):
            raise result
        yield result


def _next(iterator: Iterator[Any], timeout: float, ended: object) -> Any:
    waited = 0.0
    while True:
        try:
            return next(iterator, ended)
        except RuntimeError as error:
            text = str(error)
            if "exited unexpectedly" in text:
                raise VitralError(_died(text)) from error
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


def _unchanged(value: Any) -> Any:
    return value


def _died(text: str) -> str:
    return (
        f"A loader worker died ({' '.join(text.split())}). Usual causes are too little "
        "memory, a full /dev/shm, or a script that starts workers outside "
        "`if __name__ == '__main__':`. Use fewer workers, a smaller batch_size, or "
        "workers=0."
    )
