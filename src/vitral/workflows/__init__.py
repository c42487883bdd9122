"""Whole jobs, from a config or a run folder to files: train, evaluate, predict, ...

`train`, `features` and `transfer` come from the wings of those names."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitral.workflows.config import TrainConfig
    from vitral.workflows.predict import predict_files
    from vitral.workflows.run import ClassPrediction, Run, open_run
    from vitral.workflows.self_training import SelfTrainingConfig
    from vitral.workflows.self_training.self_train import self_train

_WHERE = {
    "ClassPrediction": "vitral.workflows.run",
    "Run": "vitral.workflows.run",
    "SelfTrainingConfig": "vitral.workflows.self_training.config",
    "TrainConfig": "vitral.workflows.config",
    "open_run": "vitral.workflows.run",
    "predict_files": "vitral.workflows.predict.predict",
    "self_train": "vitral.workflows.self_training.self_train",
}
"""Names and the modules that they come from, imported when first asked for."""

__all__ = [
    "ClassPrediction",
    "Run",
    "SelfTrainingConfig",
    "TrainConfig",
    "open_run",
    "predict_files",
    "self_train",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'vitral.workflows' has no attribute '{name}'")
