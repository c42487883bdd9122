"""Training: optimizer, schedule, loop, checkpoints and log; knows no model, no data."""

from vitral.training.checkpoint import Checkpoint, CheckpointStore, Latest
from vitral.training.fitting import fit
from vitral.training.log import TIMING_FIELDS, MetricsLog
from vitral.training.loop import FitResult, LoopConfig
from vitral.training.optim import OptimConfig, build, parameter_groups, set_lr
from vitral.training.optimizer_state import optimizer_tensors, restore_optimizer
from vitral.training.progress import Progress
from vitral.training.schedule import ScheduleConfig, lr_at, steps_for

__all__ = [
    "TIMING_FIELDS",
    "Checkpoint",
    "CheckpointStore",
    "FitResult",
    "Latest",
    "LoopConfig",
    "MetricsLog",
    "OptimConfig",
    "Progress",
    "ScheduleConfig",
    "build",
    "fit",
    "lr_at",
    "optimizer_tensors",
    "parameter_groups",
    "restore_optimizer",
    "set_lr",
    "steps_for",
]
