"""Floor 5: where data, models, training and evaluation meet."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitral.run.config import TrainConfig
    from vitral.run.extract import features
    from vitral.run.folder import Answer, Run, open_run
    from vitral.run.predicting import predict_files
    from vitral.run.self_training import self_train
    from vitral.run.self_training_state import SelfTrainingConfig
    from vitral.run.training import train
    from vitral.run.transferring import transfer

_WHERE = {
    "Answer": "vitral.run.folder",
    "Run": "vitral.run.folder",
    "SelfTrainingConfig": "vitral.run.self_training_state",
    "TrainConfig": "vitral.run.config",
    "features": "vitral.run.extract",
    "open_run": "vitral.run.folder",
    "predict_files": "vitral.run.predicting",
    "self_train": "vitral.run.self_training",
    "train": "vitral.run.training",
    "transfer": "vitral.run.transferring",
}
"""Names and the modules that they come from, imported when first asked for."""

__all__ = [
    "Answer",
    "Run",
    "SelfTrainingConfig",
    "TrainConfig",
    "features",
    "open_run",
    "predict_files",
    "self_train",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'vitral.run' has no attribute '{name}'")
