"""Learning curves: accuracy by number of examples, as power laws with intervals."""

from vitral.evaluation.learning_curves.independent import (
    ExpectedAccuracy,
    Scaling,
    fit_scaling,
)
from vitral.evaluation.learning_curves.nested import fit_nested, median_fit_start

__all__ = [
    "ExpectedAccuracy",
    "Scaling",
    "fit_nested",
    "fit_scaling",
    "median_fit_start",
]
