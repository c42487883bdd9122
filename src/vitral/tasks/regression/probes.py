"""Probes of frozen features for numbers: ridge regression and nearest neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vitral.data import BadFile
from vitral.errors import ConfigError
from vitral.tasks.features import ExtractedFeatures
from vitral.tasks.probe import ProbeInput, ProbeRow, ProbeSettings
from vitral.tasks.regression.labels import NumberLabels
from vitral.tasks.regression.metric import NumberTable, measure_numbers
from vitral.tasks.regression.result import Regression
from vitral.tasks.result import FEW_IMAGES, Headline

Matrix = Float[np.ndarray, "_ _"]
Vector = Float[np.ndarray, " _"]

STRENGTHS = tuple(2.0**power for power in range(-4, 22))
"""Penalties that `ridge` chooses from."""


@dataclass(frozen=True, slots=True)
class RidgeAnswer:
    """Numbers from regularised least squares, and the strength that was chosen."""

    values: Vector
    l2: float


@dataclass(frozen=True, slots=True)
class NumberProbe(ProbeRow):
    """Errors of one protocol."""

    name: str
    probes: tuple[Regression, ...]
    settings: dict[str, Any]

    def headline(self) -> Headline:
        """Return R2, as a result does."""
        return self.probes[0].headline()

    def __str__(self) -> str:
        return f"{self.name:16} {self.probes[0].sentence('images')}"

    def to_dict(self) -> dict[str, Any]:
        """Return errors with their intervals, and the settings that were chosen."""
        (result,) = self.probes
        return {"what": self.name, "settings": self.settings, **result.to_dict()}


class RidgePath:
    """Least squares with a squared penalty on all weights but the bias, any strength.

    The same as scikit-learn's `Ridge(alpha)`: one decomposition serves all strengths.
    """

    def __init__(self, x: Matrix, y: Vector) -> None:
        self.center, self.bias = x.mean(axis=0), float(y.mean())
        rows, self.singular, self.columns = np.linalg.svd(
            x - self.center, full_matrices=False
        )
        self.rows, self.y = rows, y - self.bias
        self.projected = rows.T @ self.y

    def predict(self, x: Matrix, l2: float) -> Vector:
        """Return the number of each row of `x`."""
        shrunk = self.singular / (self.singular**2 + l2) * self.projected
        return (x - self.center) @ (self.columns.T @ shrunk) + self.bias

    def loo_error(self, l2: float) -> float:
        """Return the mean squared leave-one-out error (Allen 1974)."""
        share = self.singular**2 / (self.singular**2 + l2)
        error = self.y - self.rows @ (share * self.projected)
        leverage = 1 / len(self.y) + self.rows**2 @ share
        return float(np.square(error / np.maximum(1 - leverage, 1e-9)).mean())


def ridge(
    x: Matrix,
    y: Vector,
    x_test: Matrix,
    dev: tuple[Matrix, Vector] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> RidgeAnswer:
    """Return the numbers of `x_test` by ridge regression on standardised features.

    Args:
        y: numbers of the rows of `x`, all present.
        dev: features and numbers that choose the strength; None: the leave-one-out
            error does.
        strengths: to choose from, above 0; of equals the largest wins.
    """
    # The constant is for features that never change.
    center, scale = x.mean(axis=0), x.std(axis=0) + 1e-5

    def standardize(rows: Matrix) -> Matrix:
        return (rows - center) / scale

    path = RidgePath(standardize(x), y)

    def error(l2: float) -> float:
        if dev is None:
            return path.loo_error(l2)
        return float(np.square(path.predict(standardize(dev[0]), l2) - dev[1]).mean())

    l2 = min(sorted(strengths)[::-1], key=error)
    return RidgeAnswer(path.predict(standardize(x_test), l2), l2)


def knn_mean(
    x: Matrix, y: Vector, x_test: Matrix, k: int = 20, rows_at_once: int = 2048
) -> Vector:
    """Return the mean of the k examples of highest cosine similarity.

    Raises:
        ConfigError: k is not in 1..train.
    """
    if not 1 <= k <= len(x):
        raise ConfigError(
            f"k must lie in 1..{len(x)}, the number of training images with a value: "
            f"got {k}. Take a smaller k or more images."
        )
    train, answers = _unit(x), []
    for first in range(0, len(x_test), rows_at_once):
        similarity = _unit(x_test[first : first + rows_at_once]) @ train.T
        # Of equally similar images the earlier one is nearer.
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        answers.append(y[nearest].mean(axis=1))
    return np.concatenate([np.zeros(0), *answers])


def run_probe(
    protocol: str, features: ProbeInput, settings: ProbeSettings
) -> list[NumberProbe]:
    """Run `linear`, a ridge regression, or `knn`, and measure it on the test images.

    Raises:
        ConfigError: there is no such protocol for numbers.
    """
    if protocol not in ("linear", "knn"):
        raise ConfigError(
            f"`protocol={protocol}` counts images of a class, and numbers have none: "
            "take `protocol=linear` or knn."
        )
    train, test = _read(features.train), _read(features.test)
    dev = None if features.dev is None else _read(features.dev)
    columns = range(train[1].shape[1])
    values, chosen = [], []
    for index in columns:
        x, y = _present(*train, index)
        if protocol == "knn":
            values.append(knn_mean(x, y, test[0], settings.k))
            chosen.append(float(settings.k))
            continue
        held_out = None if dev is None else _present(*dev, index)
        # A handful chooses by chance: then the leave-one-out error is the better judge.
        least = min(FEW_IMAGES, len(y))
        usable = held_out if held_out and len(held_out[1]) >= least else None
        answer = ridge(x, y, test[0], usable)
        values.append(answer.values)
        chosen.append(answer.l2)
    table = NumberTable(features.test.ids, test[1], np.stack(values, axis=1))
    labels = _statistics(train[1])
    bad: tuple[BadFile, ...] = features.test.bad
    result = measure_numbers(table, labels, bad, [None] * len(labels.names))
    if protocol == "knn":
        return [NumberProbe(f"{settings.k} neighbours", (result,), {"k": settings.k})]
    return [NumberProbe("linear", (result,), {"l2": chosen})]


def _read(
    features: ExtractedFeatures,
) -> tuple[Matrix, Matrix]:
    numbers = np.array(features.targets, dtype=np.float64)
    return features.x.numpy().astype(np.float64), numbers.reshape(len(numbers), -1)


def _present(x: Matrix, numbers: Matrix, index: int) -> tuple[Matrix, Vector]:
    there = ~np.isnan(numbers[:, index])
    return x[there], numbers[there, index]


def _statistics(numbers: Matrix) -> NumberLabels:
    count = numbers.shape[1]
    names = ("target",) if count == 1 else tuple(f"{i + 1}" for i in range(count))
    mean, std = np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0)
    return NumberLabels(names=names, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _unit(x: Matrix) -> Matrix:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)
