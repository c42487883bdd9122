"""The rows of one process of every batch of a Loader, built without the others.

They are the rows of the whole batch bit for bit, mixed ones too: a row is mixed with
the one before it, which is built beside them and left out again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vitral.data.loading.batch import Batch, Rows, Task
from vitral.data.loading.loader import Loader


@dataclass(frozen=True)
class Piece:
    """A part of one batch; `batch` is None where a row of it cannot be read."""

    rows: Rows
    batch: Batch | None
    whole: Callable[[], Batch | None]
    """Builds the batch of all rows, without those that cannot be read."""


def pieces(
    loader: Loader, epoch: int, start: int, part: Callable[[int], Rows | None]
) -> Iterator[Piece]:
    """The batches of one epoch from `start` on, a part of each.

    Args:
        part: the rows of a batch of so many; None for all of them.

    Raises:
        VitralError, ConfigError: as `Loader.epoch`.
    """
    tasks = loader.tasks(epoch, start)
    cut = [cut_of(task, part(len(task.examples))) for task in tasks]
    for task, own, result in zip(tasks, cut, loader.results(cut), strict=True):
        size = len(task.examples)
        yield Piece(
            own.part or Rows(0, size, size),
            # Of a whole batch the readable rows do not say which are missing.
            None if result.failures else result.batch,
            _builder(loader, task),
        )


def cut_of(task: Task, rows: Rows | None) -> Task:
    """The task of building these rows, with the row before the first."""
    if rows is None or rows.last - rows.first == rows.size:
        return task
    places = [(rows.first - 1) % rows.size, *range(rows.first, rows.last)]
    examples = tuple(task.examples[place] for place in places)
    numbers = tuple(task.numbers[place] for place in places)
    return replace(task, examples=examples, numbers=numbers, part=rows)


def _builder(loader: Loader, task: Task) -> Callable[[], Batch | None]:
    return lambda: loader.built_here(task)
