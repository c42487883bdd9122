"""Accuracy as a function of the number of examples: power laws with intervals."""

from vitral.evaluation.learning_curves.independent import Expected, Scaling, fit_scaling
from vitral.evaluation.learning_curves.nested import fit_nested, shown_from

__all__ = ["Expected", "Scaling", "fit_nested", "fit_scaling", "shown_from"]
