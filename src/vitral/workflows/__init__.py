"""Whole jobs, from a config or a run folder to files: train, evaluate, predict, ...

`train`, `features` and `transfer` come from the wings of those names."""

from typing import TYPE_CHECKING

from vitral.lazy import lazy_getattr

if TYPE_CHECKING:
    from vitral.workflows.config import TrainConfig
    from vitral.workflows.predict import predict_files
    from vitral.workflows.run import Run, open_run
    from vitral.workflows.self_training import SelfTrainingConfig
    from vitral.workflows.self_training.self_train import self_train

__getattr__ = lazy_getattr(
    __name__,
    {
        "vitral.workflows.config": "TrainConfig",
        "vitral.workflows.predict.predict": "predict_files",
        "vitral.workflows.run": "Run open_run",
        "vitral.workflows.self_training.config": "SelfTrainingConfig",
        "vitral.workflows.self_training.self_train": "self_train",
    },
)

__all__ = [
    "Run",
    "SelfTrainingConfig",
    "TrainConfig",
    "open_run",
    "predict_files",
    "self_train",
]
