"""Support vector machine with a Gaussian kernel, the baseline of small pictures."""

import time

import numpy as np
from jaxtyping import Int, Shaped

from vitral.evaluation.probes.probe import Probe, Table, make_result, validate

C = 10.0
"""Inverse strength of the penalty: the usual choice for pixels, not searched."""


def svm(x: Table, y: Table, x_test: Table, y_test: Table) -> Probe:
    """Return the accuracy of scikit-learn's `SVC(C=10)`.

    Time and memory grow with the square of the training images.

    Args:
        x, y, x_test, y_test: features and labels, as for `fewshot`.

    Raises:
        DataError: the arrays do not fit each other, or a feature is not finite.
    """
    from sklearn.svm import SVC  # slow to import

    started = time.perf_counter()
    sets = validate(x, y, x_test, y_test)
    model = SVC(C=C).fit(sets.x, sets.class_index)

    def predict(rows: Shaped[np.ndarray, "rows dim"]) -> Int[np.ndarray, " rows"]:
        predicted: np.ndarray = model.predict(rows)
        return predicted

    return make_result("svm", sets, predict, {"c": C}, started=started)
