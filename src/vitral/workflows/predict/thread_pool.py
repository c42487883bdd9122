"""Several streams of answers in one process, each on its share of the processors.

With one stream every operation of the model waits for its slowest thread, and a process
that reads beside it makes one slow. Streams wait for nobody: each reads a part's files
and answers for them, then takes the next part.
"""

import itertools
import threading
from collections.abc import Callable, Iterable

import torch

from vitral.workflows.run import Run

MAX_THREADS = 4
"""Streams, each with activations of its own; more processors give each more threads."""
PARTS_PER_THREAD = 4
"""For each stream, on average, so that the last part of one is not long alone."""


def choose_num_threads(run: Run, parts: int, workers: int | None) -> int:
    """How many streams answer `parts` parts best; 1 where threads would share a device,
    a runtime or a process that decodes, or where worker processes are wanted.

    A function of the whole work, not of what is left of it: what a row is to the last
    bit may depend on the threads of its model.
    """
    tensors = list(run.model.parameters())
    if workers is not None or run.preprocess.sampling is not None:
        return 1
    if not tensors or any(tensor.device.type != "cpu" for tensor in tensors):
        return 1
    return max(1, min(torch.get_num_threads(), MAX_THREADS, parts // PARTS_PER_THREAD))


def run_in_threads(
    work: Callable[[Iterable[int], threading.Event], None],
    parts: list[int],
    num_threads: int,
) -> None:
    """`work`, in so many threads at once, each with parts that no other has.

    An error in one, or an interruption, sets the event, which tells the others to leave
    the part at hand, and is raised.
    """
    threads = torch.get_num_threads()
    left = iter(parts)
    stopped = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        torch.set_num_threads(max(1, threads // num_threads))  # of this thread
        try:
            work(itertools.takewhile(lambda part: not stopped.is_set(), left), stopped)
        except BaseException as error:
            errors.append(error)
            stopped.set()

    streams = [
        threading.Thread(target=run, name=f"stream {n}") for n in range(num_threads)
    ]
    try:
        for stream in streams:
            stream.start()
        for stream in streams:
            stream.join()
    except BaseException:
        stopped.set()
        raise
    finally:
        for stream in streams:
            if stream.ident is not None:
                stream.join()
        torch.set_num_threads(threads)
    if errors:
        raise errors[0]
