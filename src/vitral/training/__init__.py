"""Training: optimizer, schedule, loop, checkpoints and log; knows no model, no data."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitral.training.checkpointing import (
        Checkpoint,
        CheckpointStore,
        LatestCheckpoint,
        optimizer_tensors,
        restore_optimizer,
    )
    from vitral.training.log import TIMING_FIELDS, MetricsLog
    from vitral.training.loop import FitResult, LoopConfig
    from vitral.training.optim import (
        OptimConfig,
        create_optimizer,
        parameter_groups,
        set_lr,
    )
    from vitral.training.progress import Progress
    from vitral.training.schedule import ScheduleConfig, lr_at, steps_for

_WHERE = {
    "Checkpoint": "vitral.training.checkpointing.checkpoint",
    "CheckpointStore": "vitral.training.checkpointing.checkpoint",
    "FitResult": "vitral.training.loop",
    "LatestCheckpoint": "vitral.training.checkpointing.checkpoint",
    "LoopConfig": "vitral.training.loop",
    "MetricsLog": "vitral.training.log",
    "OptimConfig": "vitral.training.optim",
    "Progress": "vitral.training.progress",
    "ScheduleConfig": "vitral.training.schedule",
    "TIMING_FIELDS": "vitral.training.log",
    "create_optimizer": "vitral.training.optim",
    "lr_at": "vitral.training.schedule",
    "optimizer_tensors": "vitral.training.checkpointing.optimizer_state",
    "parameter_groups": "vitral.training.optim",
    "restore_optimizer": "vitral.training.checkpointing.optimizer_state",
    "set_lr": "vitral.training.optim",
    "steps_for": "vitral.training.schedule",
}
"""Names and the modules that they come from, imported when first asked for."""

__all__ = [
    "TIMING_FIELDS",
    "Checkpoint",
    "CheckpointStore",
    "FitResult",
    "LatestCheckpoint",
    "LoopConfig",
    "MetricsLog",
    "OptimConfig",
    "Progress",
    "ScheduleConfig",
    "create_optimizer",
    "lr_at",
    "optimizer_tensors",
    "parameter_groups",
    "restore_optimizer",
    "set_lr",
    "steps_for",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'vitral.training' has no attribute '{name}'")
