"""Checkpoints: write, verify, find, resume; one file or shards."""

from vitral.training.checkpointing.checkpoint import (
    Checkpoint,
    CheckpointStore,
    Latest,
    refuse_nonfinite,
)
from vitral.training.checkpointing.optimizer_state import (
    optimizer_tensors,
    restore_optimizer,
)
from vitral.training.checkpointing.resume import RunFiles, Trained

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "Latest",
    "RunFiles",
    "Trained",
    "optimizer_tensors",
    "refuse_nonfinite",
    "restore_optimizer",
]
