"""Classification: one class an image, several, or soft shares of classes."""

from vitral.tasks.classification.answer import ClassPrediction
from vitral.tasks.classification.calibration import (
    Bin,
    CalibratedMetrics,
    calibrate,
    ece,
    fit_temperature,
    log_softmax,
    reliability,
)
from vitral.tasks.classification.distill import Distill, DistillConfig
from vitral.tasks.classification.metric import ClassMetric, Predictions
from vitral.tasks.classification.multi_label import LabelRow, MultiLabel, multilabel
from vitral.tasks.classification.noisy_student import (
    THRESHOLD,
    PseudoLabels,
    check_settings,
    pseudo_labels,
)
from vitral.tasks.classification.predictions import (
    Prediction,
    read_predictions,
    write_predictions,
)
from vitral.tasks.classification.real import RealAccuracy, read_real, real_accuracy
from vitral.tasks.classification.result import Classification, ClassRow, Confusion
from vitral.tasks.classification.single_label import classify, label_ranks, softmax
from vitral.tasks.classification.supervised import Supervised, SupervisedConfig
from vitral.tasks.classification.task import TASK, ClassificationTask

__all__ = [
    "TASK",
    "THRESHOLD",
    "Bin",
    "CalibratedMetrics",
    "ClassMetric",
    "ClassPrediction",
    "ClassRow",
    "Classification",
    "ClassificationTask",
    "Confusion",
    "Distill",
    "DistillConfig",
    "LabelRow",
    "MultiLabel",
    "Prediction",
    "Predictions",
    "PseudoLabels",
    "RealAccuracy",
    "Supervised",
    "SupervisedConfig",
    "calibrate",
    "check_settings",
    "classify",
    "ece",
    "fit_temperature",
    "label_ranks",
    "log_softmax",
    "multilabel",
    "pseudo_labels",
    "read_predictions",
    "read_real",
    "real_accuracy",
    "reliability",
    "softmax",
    "write_predictions",
]
