"""Regression: one number an image, or several."""

from vitral.tasks.regression.answer import NumberAnswer
from vitral.tasks.regression.labels import NumberLabels
from vitral.tasks.regression.metric import NumberMetric
from vitral.tasks.regression.objective import NumberLoss, RegressionConfig
from vitral.tasks.regression.result import NumberColumn, Regression
from vitral.tasks.regression.targets import NumberTarget, NumberTargets
from vitral.tasks.regression.task import TASK, RegressionTask

__all__ = [
    "TASK",
    "NumberAnswer",
    "NumberColumn",
    "NumberLabels",
    "NumberLoss",
    "NumberMetric",
    "NumberTarget",
    "NumberTargets",
    "Regression",
    "RegressionConfig",
    "RegressionTask",
]
