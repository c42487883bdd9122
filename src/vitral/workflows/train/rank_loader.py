"""Loader of one rank: it builds only its own rows of each global batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from vitral.data import Loader
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
        slices = self.loader.slices(number, start, self._local_rows)
        for size, rows, build_global_batch in slices:
            yield RankSlice(
                rows=rows,
                first=self._local_rows(size).start,
                size=size,
                build_global_batch=build_global_batch,
            )

    def _local_rows(self, size: int) -> range:
        if size < self.world * self.accumulate:
            return range(size)  # too few for a part each: all ranks build them all
        return range(*local_row_range(size, self.rank, self.world, self.accumulate))


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
