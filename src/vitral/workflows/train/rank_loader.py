"""Where the ranks of a training run meet its data: each builds its own rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from vitral.data import Loader
from vitral.data.loading import RowSlice, iter_batch_slices
from vitral.training.distributed import (
    RankSlice,
    broadcast_from_rank_zero,
    get_local_rank,
    get_rank,
    get_world_size,
    local_row_range,
)
from vitral.workflows.inference import Predictions, predict_batches, predict_split

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
    """The loader itself in one process; else this rank's part of it.

    A table of cached outputs has nothing to build: every rank reads whole batches.
    """
    if get_world_size() == 1 or not isinstance(loader, Loader):
        return loader
    return RankLoader(
        loader=loader, rank=get_rank(), world=get_world_size(), accumulate=accumulate
    )


def predict_loader(module: nn.Module, loader: Any, **settings: Any) -> Predictions:
    """Run `module` over all batches of a loader, divided among the ranks.

    Those of a table of cached outputs are not: each rank goes through them all.
    """
    if isinstance(loader, Loader):
        return predict_split(module, loader, **settings)
    return predict_batches(module, loader.epoch(0), **settings)


def rank_zero_first(make: Callable[[], T]) -> T:
    """What every rank makes, rank 0 before the others: they find its files."""

    def made() -> None:
        make()

    if get_world_size() > 1:
        broadcast_from_rank_zero(made)
    return make()


def describe_ranks() -> dict[str, str | int]:
    """Facts for environment.json; none of one process."""
    return {"ranks": get_world_size()} if get_world_size() > 1 else {}


def local_device(device: torch.device) -> torch.device:
    """This rank's own GPU, where `device` names none of them."""
    if device.type == "cuda" and device.index is None and get_world_size() > 1:
        return torch.device("cuda", get_local_rank())
    return device
