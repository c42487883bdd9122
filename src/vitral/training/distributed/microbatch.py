"""Rows of one rank, and the micro-batches that they are cut into.

A batch is cut into world size x `accumulate` parts, and a rank takes consecutive ones.
So the parts, and the randomness that their numbers seed, do not depend on the ranks.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from vitral.nested import slice_rows


class RowRange(NamedTuple):
    """Rows `first` up to, not including, `last`."""

    start: int
    stop: int


class Microbatch(NamedTuple):
    """One pass through the model."""

    number: int
    """Of the global batch's parts."""
    batch: Any
    counts: bool
    """False for a row that is computed only because the other ranks wait for it."""


@dataclass(frozen=True, kw_only=True)
class RankSlice:
    """A rank's rows of a global batch, as a source of batches may yield them."""

    rows: Any
    """The batch's NamedTuple with these rows only; None where one of them cannot be
    read, or there are none."""
    first: int
    size: int
    """Rows of the global batch."""
    build_global_batch: Callable[[], Any]
    """Builds the global batch, None if nothing of it can be read: what every rank
    takes its part from when the rows of one are None."""


def split_rows(size: int, count: int) -> list[RowRange]:
    """Divide `size` rows into `count` ranges as equal as can be, none of them empty."""
    count = min(count, size)
    bounds = [size * index // count for index in range(count + 1)]
    return [RowRange(*pair) for pair in itertools.pairwise(bounds)]


def local_row_range(size: int, rank: int, world: int, accumulate: int) -> RowRange:
    """Return the rows of one rank; empty where earlier parts have them all."""
    own = split_rows(size, world * accumulate)[
        rank * accumulate : (rank + 1) * accumulate
    ]
    return RowRange(own[0].start, own[-1].stop) if own else RowRange(size, size)


def local_microbatches(
    batch: Any, *, rank: int, world: int, accumulate: int
) -> Iterator[Microbatch]:
    """Yield the passes of one rank: always `accumulate` of them where there are others.

    Args:
        batch: the global batch, or this rank's `RankSlice` of it.
    """
    if isinstance(batch, RankSlice):
        rows, offset, size = batch.rows, batch.first, batch.size
    else:
        rows, offset, size = batch, 0, len(batch.id)
    cut = split_rows(size, world * accumulate)
    for index in range(rank * accumulate, (rank + 1) * accumulate):
        if index < len(cut):
            span = RowRange(cut[index].start - offset, cut[index].stop - offset)
            yield Microbatch(index, slice_rows(rows, *span), True)
        elif world > 1:
            # The passes of ranks meet in collectives: each must make as many.
            yield Microbatch(index, slice_rows(rows, 0, 1), False)


def local_ids(batch: Any) -> tuple[str, ...]:
    return tuple((batch.rows if isinstance(batch, RankSlice) else batch).id)
