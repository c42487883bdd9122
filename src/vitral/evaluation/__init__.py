"""Statistics of predictions: arrays in, numbers with intervals out, without models."""

from vitral.evaluation.calibration import (
    Bin,
    CalibratedMetrics,
    calibrate,
    ece,
    fit_temperature,
    reliability,
)
from vitral.evaluation.classify import classify, label_ranks, softmax
from vitral.evaluation.compare import (
    ClassDelta,
    Comparison,
    compare,
    holm,
    mcnemar,
    paired_bootstrap,
)
from vitral.evaluation.intervals import Interval, bootstrap, wilson
from vitral.evaluation.learning_curves import (
    ExpectedAccuracy,
    Scaling,
    fit_nested,
    fit_scaling,
)
from vitral.evaluation.multilabel import LabelRow, MultiLabel, multilabel
from vitral.evaluation.predictions import (
    Prediction,
    read_predictions,
    write_predictions,
)
from vitral.evaluation.probes import (
    LinearSolver,
    Probe,
    choose_l2,
    fewshot,
    fewshot_sweep,
    knn,
    linear,
    ridge,
)
from vitral.evaluation.real import RealAccuracy, read_real, real_accuracy
from vitral.evaluation.result import Classification, ClassRow, Confusion
from vitral.evaluation.selective import RiskCoverage, risk_coverage

__all__ = [
    "Bin",
    "CalibratedMetrics",
    "ClassDelta",
    "ClassRow",
    "Classification",
    "Comparison",
    "Confusion",
    "ExpectedAccuracy",
    "Interval",
    "LabelRow",
    "LinearSolver",
    "MultiLabel",
    "Prediction",
    "Probe",
    "RealAccuracy",
    "RiskCoverage",
    "Scaling",
    "bootstrap",
    "calibrate",
    "choose_l2",
    "classify",
    "compare",
    "ece",
    "fewshot",
    "fewshot_sweep",
    "fit_nested",
    "fit_scaling",
    "fit_temperature",
    "holm",
    "knn",
    "label_ranks",
    "linear",
    "mcnemar",
    "multilabel",
    "paired_bootstrap",
    "read_predictions",
    "read_real",
    "real_accuracy",
    "reliability",
    "ridge",
    "risk_coverage",
    "softmax",
    "wilson",
    "write_predictions",
]
