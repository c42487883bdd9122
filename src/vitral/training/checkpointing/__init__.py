"""Checkpoints: write, verify, find, resume; one file or shards."""

from vitral.training.checkpointing.checkpoint import (
    Checkpoint,
    CheckpointStore,
    LatestCheckpoint,
    require_finite,
)
from vitral.training.checkpointing.optimizer_state import (
    optimizer_tensors,
    restore_optimizer,
)
from vitral.training.checkpointing.resume import RunStore, TrainState

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "LatestCheckpoint",
    "RunStore",
    "TrainState",
    "optimizer_tensors",
    "require_finite",
    "restore_optimizer",
]
