"""Ridge probe of frozen features: closed-form least squares that chooses its strength.

Targets and whitening are those of fewshot.py. The strength is the one with the smallest
leave-one-out error, which needs no second fit (Allen, "The relationship between
variable selection and data augmentation and a method for prediction", Technometrics
1974). So no image is held out and no seed is needed, which keeps a learning curve
smooth.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from vitral.errors import ConfigError
from vitral.evaluation.probes.fewshot import (
    append_bias,
    make_classifier,
    one_hot_targets,
)
from vitral.evaluation.probes.probe import (
    Probe,
    Standardizer,
    Table,
    make_result,
    validate,
)

RIDGE_L2 = tuple(2.0**power for power in range(-4, 22))
"""Strengths to choose from."""


@dataclass(frozen=True, slots=True)
class _Decomposition:
    """Singular value decomposition of a least-squares problem."""

    rows: Float[np.ndarray, "examples rank"]
    singular: Float[np.ndarray, " rank"]
    columns: Float[np.ndarray, "rank features"]
    targets: Float[np.ndarray, "examples classes"]

    def weight(self, l2: float) -> Float[np.ndarray, "features classes"]:
        shrunk = self.singular / (self.singular**2 + l2)
        return self.columns.T @ (shrunk[:, None] * (self.rows.T @ self.targets))

    def loo_error(self, l2: float) -> float:
        """Return the mean squared leave-one-out error."""
        share = self.singular**2 / (self.singular**2 + l2)
        leverage = self.rows**2 @ share
        answers = self.rows @ (share[:, None] * (self.rows.T @ self.targets))
        # An image that alone decides a direction has a leverage of 1: no division by 0.
        error = (self.targets - answers) / np.maximum(1 - leverage, 1e-9)[:, None]
        return float(np.square(error).mean())


def ridge(
    x: Table, y: Table, x_test: Table, y_test: Table, *, l2: Sequence[float] = RIDGE_L2
) -> Probe:
    """Return the test accuracy of regularised least squares on the training features.

    Args:
        x, y, x_test, y_test: features and labels, as for `fewshot`.
        l2: strengths to choose from, each above 0; of equals the largest wins.

    Raises:
        ConfigError: no strength, or one that is not above 0.
        DataError: the arrays do not fit each other, or a feature is not finite.
    """
    started = time.perf_counter()
    if not l2 or min(l2) <= 0:
        raise ConfigError(f"l2 must be above 0: got {list(l2)}.")
    sets = validate(x, y, x_test, y_test)
    standardizer = Standardizer.fit(sets.x)
    decomposition = _decompose(standardizer(sets.x), sets.class_index)
    errors = {
        strength: decomposition.loo_error(strength) for strength in sorted(l2)[::-1]
    }
    chosen = min(errors, key=lambda strength: errors[strength])
    weight = decomposition.weight(chosen)
    settings = {"l2": float(chosen), "images": len(sets.x)}
    classifier = make_classifier(standardizer, weight)
    return make_result("ridge", sets, classifier, settings, started=started)


def _decompose(
    white: Shaped[np.ndarray, "examples dim"], class_index: Int[np.ndarray, " examples"]
) -> _Decomposition:
    rows, singular, columns = np.linalg.svd(append_bias(white), full_matrices=False)
    return _Decomposition(rows, singular, columns, one_hot_targets(class_index))
