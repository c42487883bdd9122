"""Arrays in, numbers with intervals out; nothing here knows a model."""

from vitral.evaluation.calibration import Bin, ece, reliability, temperature
from vitral.evaluation.classify import classify, label_ranks, softmax
from vitral.evaluation.fewshot import choose_l2, fewshot, fewshot_sweep
from vitral.evaluation.intervals import Interval, bootstrap, wilson
from vitral.evaluation.knn import knn
from vitral.evaluation.linear import linear
from vitral.evaluation.multilabel import LabelRow, MultiLabel, multilabel
from vitral.evaluation.predictions import (
    Prediction,
    read_predictions,
    write_predictions,
)
from vitral.evaluation.probe import Probe
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
    "Probe",
    "bootstrap",
    "choose_l2",
    "classify",
    "ece",
    "fewshot",
    "fewshot_sweep",
    "knn",
    "label_ranks",
    "linear",
    "multilabel",
    "read_predictions",
    "reliability",
    "softmax",
    "temperature",
    "wilson",
    "write_predictions",
]
