"""Accuracy as a function of the number of examples: power laws with intervals."""

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
