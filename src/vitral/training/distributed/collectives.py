"""Collectives of the ranks of one run: sums, maxima, broadcasts, stop signals.

Three small sums a step: whether all have their rows, what the update gave, whether a
signal came; a fourth for a loss of several terms. Alone, everything here costs nothing.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from vitral.errors import DataError, VitralError
from vitral.training.distributed.microbatch import RankSlice
from vitral.training.distributed.process_group import (
    all_gather,
    get_rank,
    get_world_size,
)
from vitral.training.log import MetricsLog


class ParallelForward(NamedTuple):
    """Forward pass of an objective that all ranks train."""

    forward: Callable[[Any], dict[str, Any]]
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
    """Device that the collectives want their tensors on."""

    @classmethod
    def from_process_group(cls, device: torch.device) -> "RankGroup":
        return cls(rank=get_rank(), world=get_world_size(), device=device)

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum each value over the ranks; all have the same names."""
        if self.world == 1:
            return dict(values)
        names = sorted(values)
        total = torch.tensor(
            [values[name] for name in names], dtype=torch.float64, device=self.device
        )
        dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def all_reduce_max(self, value: int) -> int:
        if self.world == 1:
            return value
        largest = torch.tensor([value], device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest.item())

    def synchronize(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches in step with the other ranks.

        An error of one is raised on all. Where one cannot have its rows, all build
        the global batch.
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
        """Return the global batch in place of the slices; None if it has no rows."""
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


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the tensor of all ranks together, the same where it is not divided."""
    # Not by its type, whose import takes half a second.
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, the same where it is not divided."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


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
