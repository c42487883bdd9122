"""Collectives of the ranks of one run: sums, maxima, broadcasts, stop signals.

Alone, everything here is itself and costs nothing. Three small sums a step: whether all
have their rows, what the update gave, whether a signal came.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitral.errors import DataError, VitralError
from vitral.training.distributed.microbatch import RankSlice
from vitral.training.distributed.process_group import (
    all_gather,
    broadcast_from_rank_zero,
    get_rank,
    get_world_size,
)
from vitral.training.log import MetricsLog

T = TypeVar("T")


class ParallelForward(NamedTuple):
    """Forward pass of an objective that all ranks train."""

    forward: Callable[[Any], dict[str, Tensor]]
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext
    """The context of a backward pass that is not the last of its step."""


CPU = torch.device("cpu")
READY, INCOMPLETE, ENDED, FAILED = range(4)


@dataclass(frozen=True, kw_only=True)
class RankGroup:
    """This process among the others."""

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    """Where the collectives want their tensors."""

    @classmethod
    def from_process_group(cls, device: torch.device) -> "RankGroup":
        """Those of the process group, if there is one."""
        return cls(rank=get_rank(), world=get_world_size(), device=device)

    @property
    def is_rank_zero(self) -> bool:
        """Return whether this rank writes the files."""
        return self.rank == 0

    def all_reduce_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum over ranks of each value; all have the same names."""
        if self.world == 1:
            return dict(values)
        names = sorted(values)
        total = torch.tensor(
            [values[name] for name in names], dtype=torch.float64, device=self.device
        )
        dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def all_reduce_max(self, value: int) -> int:
        """The largest value of any rank."""
        if self.world == 1:
            return value
        found = torch.tensor([value], device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

    def broadcast(self, work: Callable[[], T]) -> T:
        """Run on rank 0, and return the result or raise the error on every rank."""
        return broadcast_from_rank_zero(work)

    def synchronize(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, in step with the other ranks.

        An error of one is raised on all. Where one cannot have its rows, all build
        the global batch.

        Raises:
            DataError: an image can be read on one rank only.
            VitralError: as any rank's `batches`.
        """
        try:
            if self.world == 1:
                yield from batches
                return
            while True:
                state, offer, error = _next_batch(batches)
                worst = self.all_reduce_max(state)
                if worst == FAILED:
                    raise next(e for e in all_gather(error) if e is not None)
                if worst == ENDED:
                    return
                if worst == INCOMPLETE:
                    offer = self._build_global_batch(offer)
                if offer is not None:
                    yield offer
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def _build_global_batch(self, offer: Any) -> Any:
        """The global batch in the place of the shares; None if it has no rows."""
        whole = offer.build_global_batch() if isinstance(offer, RankSlice) else offer
        ids = all_gather(() if whole is None else tuple(whole.id))
        for number, other in enumerate(ids):
            differs = set(other) ^ set(ids[0])
            if differs:
                raise DataError(
                    f"{min(differs)} can be read by rank 0 or rank {number}, but not "
                    "by both: every machine must see the same files. Mount the same "
                    "data everywhere, or remove the image."
                )
        return whole


def _next_batch(batches: Iterator[Any]) -> tuple[int, Any, VitralError | None]:
    try:
        offer = next(batches, None)
    except VitralError as error:
        return FAILED, None, error
    if offer is None:
        return ENDED, None, None
    incomplete = isinstance(offer, RankSlice) and offer.rows is None
    return (INCOMPLETE if incomplete else READY), offer, None


class SilentLog(MetricsLog):
    """The log of a rank that does not write; it refuses what the log refuses."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    @property
    def length(self) -> int:
        return 0

    def truncate(self, length: int) -> bool:
        return True

    def sync(self) -> None:
        return
