"""Loader of one rank: it builds only its own rows of each global batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from vitral.data import Loader
from vitral.data.loading import RowSlice, iter_batch_slices
from vitral.training.distributed import (
    RankSlice,
    get_rank,
    get_world_size,
    local_row_range,
)
from vitral.workflows.inference import Predictions, predict_batches, predict_split


@dataclass(frozen=True, kw_only=True)
class RankLoader:
    """The batches of a Loader as one of several ranks gives them to `fit`."""

    loader: Loader
    rank: int
    world: int
    accumulate: int

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """Yield a RankSlice of each batch of one epoch, from batch `start` on."""
        for piece in iter_batch_slices(self.loader, number, start, self._local_rows):
            yield RankSlice(
                rows=piece.batch,
                first=piece.rows.start,
                size=piece.rows.size,
                build_global_batch=piece.build_full,
            )

    def _local_rows(self, size: int) -> RowSlice | None:
        if size < self.world * self.accumulate:
            return None  # too few for a part each: all ranks build them all
        return RowSlice(
            *local_row_range(size, self.rank, self.world, self.accumulate), size
        )


def make_rank_loader(loader: Any, accumulate: int) -> Any:
    """Return the loader itself in one process, else this rank's part of it.

    Cached outputs need no building: every rank reads whole batches.
    """
    if get_world_size() == 1 or not isinstance(loader, Loader):
        return loader
    return RankLoader(
        loader=loader, rank=get_rank(), world=get_world_size(), accumulate=accumulate
    )


def predict_loader(module: nn.Module, loader: Any, **settings: Any) -> Predictions:
    """Run `module` over all batches of a loader, divided among the ranks.

    Batches of cached outputs are not divided: each rank runs them all.
    """
    if isinstance(loader, Loader):
        return predict_split(module, loader, **settings)
    return predict_batches(module, loader.epoch(0), **settings)
