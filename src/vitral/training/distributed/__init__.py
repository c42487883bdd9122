"""Ranks: process group, rendezvous, collectives, failures, micro-batches."""

from vitral.training.distributed.collectives import (
    ParallelForward,
    RankGroup,
    SilentLog,
    full_tensor,
    local_tensor,
)
from vitral.training.distributed.failures import is_reported_elsewhere
from vitral.training.distributed.microbatch import (
    Microbatch,
    RankSlice,
    local_ids,
    local_microbatches,
    local_row_range,
    split_rows,
)
from vitral.training.distributed.process_group import (
    TIMEOUT,
    all_gather,
    broadcast_from_rank_zero,
    get_local_rank,
    get_rank,
    get_world_size,
    process_group,
)

__all__ = [
    "TIMEOUT",
    "Microbatch",
    "ParallelForward",
    "RankGroup",
    "RankSlice",
    "SilentLog",
    "all_gather",
    "broadcast_from_rank_zero",
    "full_tensor",
    "get_local_rank",
    "get_rank",
    "get_world_size",
    "is_reported_elsewhere",
    "local_ids",
    "local_microbatches",
    "local_row_range",
    "local_tensor",
    "process_group",
    "split_rows",
]
