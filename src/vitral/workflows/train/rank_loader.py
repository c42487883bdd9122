"""Where the ranks of a training run meet its data: each builds its own rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from vitral.data import Loader
from vitral.data.loading import Rows, pieces
from vitral.training.distributed import (
    Share,
    from_first,
    local_rank,
    own_span,
    rank,
    world_size,
)
from vitral.workflows.inference import Scores, score, score_split

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RankLoader:
    """The batches of a Loader as `fit` takes them from one of several ranks."""

    loader: Loader
    rank: int
    world: int
    accumulate: int

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """A Share of each batch of one epoch, from batch `start` on."""
        for piece in pieces(self.loader, number, start, self._rows):
            yield Share(
                rows=piece.batch,
                first=piece.rows.first,
                size=piece.rows.size,
                whole=piece.whole,
            )

    def _rows(self, size: int) -> Rows | None:
        if size < self.world * self.accumulate:
            return None  # too few for a part each: all ranks build them all
        return Rows(*own_span(size, self.rank, self.world, self.accumulate), size)


def for_rank(loader: Any, accumulate: int) -> Any:
    """The loader itself in one process; else this rank's part of it.

    A table of cached outputs has nothing to build: every rank reads whole batches.
    """
    if world_size() == 1 or not isinstance(loader, Loader):
        return loader
    return RankLoader(
        loader=loader, rank=rank(), world=world_size(), accumulate=accumulate
    )


def score_batches(module: nn.Module, loader: Any, **settings: Any) -> Scores:
    """Run `module` over all batches of a loader, divided among the ranks.

    Those of a table of cached outputs are not: each rank goes through them all.
    """
    if isinstance(loader, Loader):
        return score_split(module, loader, **settings)
    return score(module, loader.epoch(0), **settings)


def first_alone(make: Callable[[], T]) -> T:
    """What every rank makes, rank 0 before the others: they find its files."""

    def made() -> None:
        make()

    if world_size() > 1:
        from_first(made)
    return make()


def about_ranks() -> dict[str, str | int]:
    """Facts for environment.json; none of one process."""
    return {"ranks": world_size()} if world_size() > 1 else {}


def place_of(device: torch.device) -> torch.device:
    """This rank's own GPU, where `device` names none of them."""
    if device.type == "cuda" and device.index is None and world_size() > 1:
        return torch.device("cuda", local_rank())
    return device
