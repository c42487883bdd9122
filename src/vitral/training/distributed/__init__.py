"""Ranks: process group, rendezvous, collectives, failures, micro-batches."""

from vitral.training.distributed.collectives import Parallel, Ranks, SilentLog
from vitral.training.distributed.failures import is_quiet
from vitral.training.distributed.microbatch import (
    Share,
    own_ids,
    own_parts,
    own_span,
    rows_of,
    spans,
)
from vitral.training.distributed.process_group import (
    TIMEOUT,
    from_first,
    gathered,
    joined,
    local_rank,
    rank,
    world_size,
)

__all__ = [
    "TIMEOUT",
    "Parallel",
    "Ranks",
    "Share",
    "SilentLog",
    "from_first",
    "gathered",
    "is_quiet",
    "joined",
    "local_rank",
    "own_ids",
    "own_parts",
    "own_span",
    "rank",
    "rows_of",
    "spans",
    "world_size",
]
