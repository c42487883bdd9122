"""Which rows of a global batch a rank computes, and in which parts.

A batch is cut into world size x `accumulate` parts, as one process with so many parts
would cut it, and a rank takes a run of them. So the parts, and the randomness that is
seeded by their numbers, are those of one process, whoever computes them.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Span(NamedTuple):
    """Rows `first` up to, not including, `last`."""

    first: int
    last: int


class Part(NamedTuple):
    """One pass through the model."""

    number: int
    """Of the global batch's parts."""
    batch: Any
    counts: bool
    """False for a row that is computed only because the other ranks wait for it."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A rank's rows of a global batch, as a source of batches may yield them."""

    rows: Any
    """The batch's NamedTuple with these rows only; None where one of them cannot be
    read, or there are none."""
    first: int
    size: int
    """Rows of the global batch."""
    whole: Callable[[], Any]
    """Builds the global batch, None if nothing of it can be read: what every rank
    takes its part from when the rows of one are None."""


def spans(size: int, count: int) -> list[Span]:
    """`size` rows in `count` spans as equal as can be; never an empty one."""
    count = min(count, size)
    bounds = [size * index // count for index in range(count + 1)]
    return [Span(*pair) for pair in itertools.pairwise(bounds)]


def own_span(size: int, rank: int, world: int, accumulate: int) -> Span:
    """All rows of one rank; none where there are fewer rows than parts before it."""
    own = spans(size, world * accumulate)[rank * accumulate : (rank + 1) * accumulate]
    return Span(own[0].first, own[-1].last) if own else Span(size, size)


def own_parts(batch: Any, *, rank: int, world: int, accumulate: int) -> Iterator[Part]:
    """The passes of one rank: always `accumulate` of them where there are others.

    Args:
        batch: the global batch, or this rank's Share of it.
    """
    rows, offset, size = batch, 0, -1
    if isinstance(batch, Share):
        rows, offset, size = batch.rows, batch.first, batch.size
    if size < 0:
        size = len(rows.id)
    cut = spans(size, world * accumulate)
    for index in range(rank * accumulate, (rank + 1) * accumulate):
        if index < len(cut):
            span = Span(cut[index].first - offset, cut[index].last - offset)
            yield Part(index, rows_of(rows, span), True)
        elif world > 1:
            # The passes of ranks meet in collectives: each must make as many.
            yield Part(index, rows_of(rows, Span(0, 1)), False)


def own_ids(batch: Any) -> tuple[str, ...]:
    """The examples of a batch, or of this rank's Share of it."""
    return tuple((batch.rows if isinstance(batch, Share) else batch).id)


def rows_of(batch: Any, span: Span) -> Any:
    """The same NamedTuple with these rows of every field."""
    return type(batch)(*(field[span.first : span.last] for field in batch))
