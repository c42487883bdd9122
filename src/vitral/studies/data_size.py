"""Learning curve of a probe on growing subsets, extrapolated to more images.

The features are frozen and computed once; families.py trains from zero instead.
data_size_page.py writes the page.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vitral.errors import ConfigError
from vitral.evaluation import ExpectedAccuracy, Probe, Scaling, fit_nested
from vitral.evaluation.probes import knn, linear, ridge
from vitral.studies.engine import (
    Difference,
    describe_leaders,
    nested_order,
    subset_sizes,
)
from vitral.workflows import open_run
from vitral.workflows.features import SplitFeatures, extract_splits
from vitral.workflows.runtime import Runtime

logger = logging.getLogger(__name__)

NAME = "data-size"
QUESTION = "Would more training images help, and how much would twice as many add?"
MULTIPLES = (2, 4, 10)
"""Multiples of the training images at which the accuracy is predicted."""
DRAWS = tuple(range(10))
NEIGHBORS = 20

Protocol = Callable[[Any, Any, Any, Any], Probe]


def _knn(x: Any, y: Any, x_test: Any, y_test: Any) -> Probe:
    return knn(x, y, x_test, y_test, k=min(NEIGHBORS, len(x)))


PROTOCOLS: Mapping[str, Protocol] = {"ridge": ridge, "linear": linear, "knn": _knn}


@dataclass(frozen=True, slots=True)
class LabeledFeatures:
    """Features of images with their class indices."""

    x: Float[np.ndarray, "images dim"]
    y: Int[np.ndarray, " images"]


@dataclass(frozen=True, slots=True)
class SubsetResults:
    """Accuracies of one set of weights, one per draw of each subset."""

    sizes: tuple[int, ...]
    accuracies: tuple[float, ...]
    draws: tuple[int, ...]
    full: Probe
    """Probe with all training images, which have one draw only."""

    def accuracies_at(self, size: int) -> list[float]:
        """Return the accuracies of a size, in the order of the draws."""
        pairs = zip(self.sizes, self.accuracies, strict=True)
        return [accuracy for other_size, accuracy in pairs if other_size == size]


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Accuracies of one set of weights and the curve fitted to them."""

    points: SubsetResults
    fit: Scaling

    @property
    def predicted(self) -> list[ExpectedAccuracy]:
        return [self.fit.predict(times * self.fit.largest) for times in MULTIPLES]


@dataclass(frozen=True, kw_only=True)
class DataSizeResult:
    """Learning curves of all weights on one data set."""

    data: str
    protocol: str
    curves: Mapping[str, LearningCurve]
    """By the name of the weights."""
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    classes: int
    seconds: float
    """Seconds without computing features."""

    @property
    def verdict(self) -> str:
        """Return a sentence per set of weights, and a comparison of several."""
        names = list(self.curves)
        if len(names) == 1:
            return self.curves[names[0]].fit.verdict
        fits = [f"{name}: {curve.fit.verdict}" for name, curve in self.curves.items()]
        return " ".join([*fits, *describe_leaders(names, self.sizes, self.difference)])

    def difference(self, first: str, second: str, size: int) -> Difference:
        """Return the paired difference of two weights on the same subsets."""
        a = self.curves[first].points.accuracies_at(size)
        b = self.curves[second].points.accuracies_at(size)
        differences = [x - y for x, y in zip(a, b, strict=True)]
        mean = statistics.fmean(differences)
        if len(differences) > 1:
            return Difference(mean, statistics.stdev(differences))
        noise = [self.curves[name].fit.noise for name in (first, second)]
        return Difference(mean, math.hypot(*noise))


def run_data_size_study(
    weights: Sequence[str],
    data: str,
    *,
    protocol: str = "ridge",
    seeds: Sequence[int] = DRAWS,
    fractions: Sequence[float] = (),
    folder: str | Path | None = None,
    device: str = "auto",
) -> DataSizeResult:
    """Measure every set of weights on growing subsets of the data and fit its curve.

    Args:
        weights: what `vitral.weights.load` takes, or runs on other data.
        protocol: one of PROTOCOLS.
        seeds: one draw of all nested subsets each; three or more.
        fractions: of the training images; empty for six sizes up to all.
        folder: cache of features; None for the user's cache.

    Raises:
        ConfigError: an unknown protocol, too few seeds or sizes, repeated weights, or a
            run that was trained on these images.
        DataError: one class only, a class with too few images, or features that cannot
            be probed.
        WeightsError: weights are missing, corrupt or refused.
    """
    _check(weights, data, protocol, seeds)
    curves: dict[str, LearningCurve] = {}
    seconds = 0.0
    for path, name in zip(weights, _short_names(weights), strict=True):
        logger.info(f"{name}: features of {data}")
        features = extract_splits(
            path, data, folder=folder, runtime=Runtime(device=device)
        )
        train, test = _split_features(features)
        sizes = subset_sizes(train.y, features.classes, fractions)
        started = time.monotonic()
        logger.info(
            f"{name}: {len(seeds)} draws of {', '.join(map(str, sizes))} images"
        )
        points = measure_subsets(
            train, test, sizes, seeds, protocol=PROTOCOLS[protocol]
        )
        curves[name] = LearningCurve(points=points, fit=fit_curve(points))
        seconds += time.monotonic() - started
    return DataSizeResult(
        data=data,
        protocol=protocol,
        curves=curves,
        sizes=sizes,
        seeds=tuple(seeds),
        classes=len(features.classes),
        seconds=round(seconds, 1),
    )


def measure_subsets(
    train: LabeledFeatures,
    test: LabeledFeatures,
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    protocol: Protocol = ridge,
) -> SubsetResults:
    """Measure the accuracy of every subset; the full set is measured once.

    Args:
        sizes: from `subset_sizes`.
    """
    results: list[tuple[int, float, int]] = []
    full = protocol(train.x, train.y, test.x, test.y)
    for seed in seeds:
        order = nested_order(train.y, seed)
        for size in sizes:
            if size < len(train.y):
                rows = order[:size]
                probe = protocol(train.x[rows], train.y[rows], test.x, test.y)
                results.append((size, probe.accuracy, seed))
    results.append((len(train.y), full.accuracy, seeds[0]))
    return SubsetResults(
        sizes=tuple(size for size, _, _ in results),
        accuracies=tuple(accuracy for _, accuracy, _ in results),
        draws=tuple(seed for _, _, seed in results),
        full=full,
    )


def fit_curve(points: SubsetResults) -> Scaling:
    """Fit the learning curve."""
    return fit_nested(points.sizes, points.accuracies)


def _split_features(features: SplitFeatures) -> tuple[LabeledFeatures, LabeledFeatures]:
    """Return training and test features; val joins the former, as nothing uses it."""
    parts = [features.train, *([features.dev] if features.dev else [])]
    train = LabeledFeatures(
        np.concatenate([np.asarray(part.x) for part in parts]),
        np.concatenate([np.asarray(part.y) for part in parts]),
    )
    test = LabeledFeatures(np.asarray(features.test.x), np.asarray(features.test.y))
    return train, test


def _short_names(weights: Sequence[str]) -> list[str]:
    """Return the shortest path suffixes that are unique."""
    for length in range(1, 4):
        names = ["/".join(Path(path).parts[-length:]) for path in weights]
        if len(set(names)) == len(names):
            return names
    return list(weights)


def _check(
    weights: Sequence[str], data: str, protocol: str, seeds: Sequence[int]
) -> None:
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}: got {protocol}."
        )
    if len(set(seeds)) < 3 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            "`seeds` names the draws of the subsets, and three or more different "
            "ones measure the noise, as in `seeds=(0, 1, 2)`: got "
            f"{len(set(seeds))} ({' '.join(map(str, seeds)) or 'none'})."
        )
    if len(set(weights)) < len(weights):
        raise ConfigError("The same weights are given twice: give each once.")
    for path in weights:
        if all((Path(path) / name).is_file() for name in ("config.json", "split.csv")):
            run_data = open_run(path).config.data
            if run_data == data or Path(run_data).resolve() == Path(data).resolve():
                raise ConfigError(
                    f"{path} was trained on {data}: its features know all of these "
                    "images already, so a curve of parts of them would show nothing. "
                    "Give the weights that it began with."
                )
