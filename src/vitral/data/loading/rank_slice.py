"""Build only this rank's rows of each global batch.

The rows equal those of the full batch bit for bit. Mixup pairs row i with row i - 1, so
the row before the slice is built too and dropped afterwards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from vitral.data.loading.batch import Batch, BatchRequest, RowSlice
from vitral.data.loading.loader import Loader


@dataclass(frozen=True)
class BatchSlice:
    """Rows of one batch; `batch` is None if one of them cannot be read."""

    rows: RowSlice
    batch: Batch | None
    build_full: Callable[[], Batch | None]
    """Builds the batch of all readable rows."""


def iter_batch_slices(
    loader: Loader, epoch: int, start: int, get_rows: Callable[[int], RowSlice | None]
) -> Iterator[BatchSlice]:
    """Yield a slice of each batch of one epoch from `start` on.

    Args:
        get_rows: returns the rows to build of a batch of a given size. None: all.

    Raises:
        VitralError, ConfigError: as `Loader.epoch`.
    """
    requests = loader.requests(epoch, start)
    slices = [slice_request(full, get_rows(len(full.examples))) for full in requests]
    for full, part, result in zip(
        requests, slices, loader.results(slices), strict=True
    ):
        size = len(full.examples)
        yield BatchSlice(
            part.rows or RowSlice(0, size, size),
            # The readable rows of a full batch do not tell which are missing.
            None if result.failures else result.batch,
            partial(loader.build_local, full),
        )


def slice_request(request: BatchRequest, rows: RowSlice | None) -> BatchRequest:
    """Return a request for these rows and the row before the first."""
    if rows is None or rows.stop - rows.start == rows.size:
        return request
    indices = [(rows.start - 1) % rows.size, *range(rows.start, rows.stop)]
    examples = tuple(request.examples[index] for index in indices)
    draws = tuple(request.draws[index] for index in indices)
    return replace(request, examples=examples, draws=draws, rows=rows)
