"""Floor 5: where data, models, training and evaluation meet."""

from vitral.run.config import TrainConfig
from vitral.run.extract import features
from vitral.run.folder import Answer, Run, open_run
from vitral.run.self_training import self_train
from vitral.run.self_training_state import SelfTrainingConfig
from vitral.run.training import train
from vitral.run.transferring import transfer

__all__ = [
    "Answer",
    "Run",
    "SelfTrainingConfig",
    "TrainConfig",
    "features",
    "open_run",
    "self_train",
    "train",
    "transfer",
]
