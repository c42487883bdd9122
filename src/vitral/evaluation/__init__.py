"""Arrays in, numbers with intervals out; nothing here knows a model."""

from vitral.evaluation.calibration import Bin, ece, reliability, temperature
from vitral.evaluation.classify import classify, label_ranks, softmax
from vitral.evaluation.intervals import Interval, bootstrap, wilson
from vitral.evaluation.multilabel import LabelRow, MultiLabel, multilabel
from vitral.evaluation.predictions import (
    Prediction,
    read_predictions,
    write_predictions,
)
from vitral.evaluation.result import Classification, ClassRow, Confusion

__all__ = [
    "Bin",
    "ClassRow",
    "Classification",
    "Confusion",
    "Interval",
    "LabelRow",
    "MultiLabel",
    "Prediction",
    "bootstrap",
    "classify",
    "ece",
    "label_ranks",
    "multilabel",
    "read_predictions",
    "reliability",
    "softmax",
    "temperature",
    "wilson",
    "write_predictions",
]
