"""Predict several parts at once in one process, each thread on its share of the CPUs.

With one thread, each operation of the model waits for its slowest intra-op thread.
"""

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from vitral.workflows.run import Run

MAX_THREADS = 4
"""Threads at most, each with its own activations; more CPUs give each more cores."""
PARTS_PER_THREAD = 4
"""Parts per thread at least, so that the last part does not run long alone."""


def choose_num_threads(run: Run, parts: int, workers: int | None) -> int:
    """Return the number of threads for a job of `parts` parts.

    It is 1 where threads would share a device, a runtime or a decoding process, and
    where worker processes are requested. It depends on the full job, not on the missing
    parts: the last bit of a row may depend on the threads of its model.
    """
    parameters = list(run.model.parameters())
    if workers is not None:
        return 1
    if not parameters or any(p.device.type != "cpu" for p in parameters):
        return 1
    readers = run.preprocess.reader_threads(torch.get_num_threads())
    return max(1, min(readers, MAX_THREADS, parts // PARTS_PER_THREAD))


def run_in_threads(
    work: Callable[[Iterable[int], threading.Event], None],
    parts: list[int],
    num_threads: int,
) -> None:
    """Call `work` in `num_threads` threads that share the iterator of `parts`.

    The first error, or an interruption, sets the event, which makes the others abandon
    their part, and is raised.
    """
    intra_op_threads = torch.get_num_threads()
    remaining = iter(parts)
    stopped = threading.Event()

    def run() -> None:
        torch.set_num_threads(max(1, intra_op_threads // num_threads))  # thread-local
        work(itertools.takewhile(lambda part: not stopped.is_set(), remaining), stopped)

    try:
        with ThreadPoolExecutor(num_threads, thread_name_prefix="stream") as executor:
            try:
                for future in as_completed(
                    [executor.submit(run) for _ in range(num_threads)]
                ):
                    future.result()
            except BaseException:
                stopped.set()
                raise
    finally:
        torch.set_num_threads(intra_op_threads)
