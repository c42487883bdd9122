"""Statistics of predictions: arrays in, numbers with intervals out, without models."""

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
from vitral.evaluation.selective import RiskCoverage, risk_coverage

__all__ = [
    "ClassDelta",
    "Comparison",
    "ExpectedAccuracy",
    "Interval",
    "LinearSolver",
    "Probe",
    "RiskCoverage",
    "Scaling",
    "bootstrap",
    "choose_l2",
    "compare",
    "fewshot",
    "fewshot_sweep",
    "fit_nested",
    "fit_scaling",
    "holm",
    "knn",
    "linear",
    "mcnemar",
    "paired_bootstrap",
    "ridge",
    "risk_coverage",
    "wilson",
]
