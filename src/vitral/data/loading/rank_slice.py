"""The rows of one process of every batch of a Loader, built without the others.

They are the rows of the whole batch bit for bit, mixed ones too: a row is mixed with
the one before it, which is built beside them and left out again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vitral.data.loading.batch import Batch, BatchRequest, RowSlice
from vitral.data.loading.loader import Loader


@dataclass(frozen=True)
class BatchSlice:
    """A part of one batch; `batch` is None where a row of it cannot be read."""

    rows: RowSlice
    batch: Batch | None
    build_full: Callable[[], Batch | None]
    """Builds the batch of all rows, without those that cannot be read."""


def iter_batch_slices(
    loader: Loader, epoch: int, start: int, get_rows: Callable[[int], RowSlice | None]
) -> Iterator[BatchSlice]:
    """The batches of one epoch from `start` on, a part of each.

    Args:
        get_rows: the rows of a batch of so many; None for all of them.

    Raises:
        VitralError, ConfigError: as `Loader.epoch`.
    """
    tasks = loader.requests(epoch, start)
    cut = [slice_request(task, get_rows(len(task.examples))) for task in tasks]
    for task, own, result in zip(tasks, cut, loader.results(cut), strict=True):
        size = len(task.examples)
        yield BatchSlice(
            own.rows or RowSlice(0, size, size),
            # Of a whole batch the readable rows do not say which are missing.
            None if result.failures else result.batch,
            _full_batch_builder(loader, task),
        )


def slice_request(request: BatchRequest, rows: RowSlice | None) -> BatchRequest:
    """The task of building these rows, with the row before the first."""
    if rows is None or rows.stop - rows.start == rows.size:
        return request
    places = [(rows.start - 1) % rows.size, *range(rows.start, rows.stop)]
    examples = tuple(request.examples[place] for place in places)
    numbers = tuple(request.draws[place] for place in places)
    return replace(request, examples=examples, draws=numbers, rows=rows)


def _full_batch_builder(
    loader: Loader, request: BatchRequest
) -> Callable[[], Batch | None]:
    return lambda: loader.build_local(request)
