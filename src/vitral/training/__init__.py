"""Training: optimizer, schedule, loop, checkpoints and log; knows no model, no data."""

from typing import TYPE_CHECKING

from vitral.lazy import lazy_getattr

if TYPE_CHECKING:
    from vitral.training.checkpointing import (
        CheckpointStore,
        optimizer_tensors,
        restore_optimizer,
    )
    from vitral.training.log import TIMING_FIELDS, MetricsLog
    from vitral.training.loop import LoopConfig
    from vitral.training.optim import (
        OptimConfig,
        create_optimizer,
        parameter_groups,
        set_lr,
    )
    from vitral.training.precision import fast_precision
    from vitral.training.progress import Progress
    from vitral.training.schedule import ScheduleConfig, lr_at, steps_for

__getattr__ = lazy_getattr(
    __name__,
    {
        "vitral.training.checkpointing.checkpoint": "CheckpointStore",
        "vitral.training.checkpointing.optimizer_state": "optimizer_tensors "
        "restore_optimizer",
        "vitral.training.log": "TIMING_FIELDS MetricsLog",
        "vitral.training.loop": "LoopConfig",
        "vitral.training.optim": "OptimConfig create_optimizer parameter_groups set_lr",
        "vitral.training.precision": "fast_precision",
        "vitral.training.progress": "Progress",
        "vitral.training.schedule": "ScheduleConfig lr_at steps_for",
    },
)

__all__ = [
    "TIMING_FIELDS",
    "CheckpointStore",
    "LoopConfig",
    "MetricsLog",
    "OptimConfig",
    "Progress",
    "ScheduleConfig",
    "create_optimizer",
    "fast_precision",
    "lr_at",
    "optimizer_tensors",
    "parameter_groups",
    "restore_optimizer",
    "set_lr",
    "steps_for",
]
