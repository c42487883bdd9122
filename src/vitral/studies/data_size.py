"""Would more data help? Accuracy on growing subsets, its curve, and what comes next.

Nothing is trained: weights are measured by a probe of their frozen features, which are
computed once. Training from scratch on growing subsets: families.py. The page:
data_size_page.py.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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

logger = logging.getLogger(__name__)

NAME = "data-size"
QUESTION = "Would more training images help, and how much would twice as many add?"
MULTIPLES = (2, 4, 10)
"""Of the training images there are: where the accuracy is predicted."""
DRAWS = tuple(range(10))
NEIGHBORS = 20

Protocol = Callable[[Any, Any, Any, Any], Probe]


def _knn(x: Any, y: Any, x_test: Any, y_test: Any) -> Probe:
    return knn(x, y, x_test, y_test, k=min(NEIGHBORS, len(x)))


PROTOCOLS: Mapping[str, Protocol] = {"ridge": ridge, "linear": linear, "knn": _knn}


class LabeledFeatures(NamedTuple):
    """Features of images and what they show."""

    x: Float[np.ndarray, "images dim"]
    y: Int[np.ndarray, " images"]


class SubsetResults(NamedTuple):
    """Measurements of one set of weights: one for each draw of each subset."""

    sizes: tuple[int, ...]
    accuracies: tuple[float, ...]
    draws: tuple[int, ...]
    full: Probe
    """With all training images, which can be drawn in one way only."""

    def accuracies_at(self, size: int) -> list[float]:
        """The accuracies of a size, in the order of the draws."""
        return [
            right
            for one, right in zip(self.sizes, self.accuracies, strict=True)
            if one == size
        ]


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """One set of weights on growing subsets."""

    points: SubsetResults
    fit: Scaling

    @property
    def predicted(self) -> list[ExpectedAccuracy]:
        return [self.fit.predict(times * self.fit.largest) for times in MULTIPLES]


@dataclass(frozen=True, kw_only=True)
class DataSizeResult:
    """What the study found."""

    data: str
    protocol: str
    curves: Mapping[str, LearningCurve]
    """By the name of the weights."""
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    classes: int
    seconds: float
    """Without computing features."""

    @property
    def verdict(self) -> str:
        """One sentence for each set of weights, and who is ahead."""
        names = list(self.curves)
        if len(names) == 1:
            return self.curves[names[0]].fit.verdict
        own = [f"{name}: {one.fit.verdict}" for name, one in self.curves.items()]
        return " ".join([*own, *describe_leaders(names, self.sizes, self.difference)])

    def difference(self, first: str, second: str, size: int) -> Difference:
        """Of two weights on the same subsets."""
        a, b = (
            self.curves[first].points.accuracies_at(size),
            self.curves[second].points.accuracies_at(size),
        )
        differences = [one - other for one, other in zip(a, b, strict=True)]
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
        seeds: one draw of all nested subsets for each; three or more.
        fractions: of the training images; empty for six sizes up to all.
        folder: where features are kept; None for the user's cache.

    Raises:
        ConfigError: an unknown protocol, too few seeds or sizes, weights that come
            twice, or a run that was trained on these images.
        DataError: one class only, a class with too few images, or features that cannot
            be probed.
        WeightsError: weights are missing, corrupt or refused.
    """
    _check(weights, data, protocol, seeds)
    grown: dict[str, LearningCurve] = {}
    seconds = 0.0
    for path, name in zip(weights, _short_names(weights), strict=True):
        logger.info(f"{name}: features of {data}")
        material = extract_splits(path, data, folder=folder, device=device)
        train, test = _split_features(material)
        sizes = subset_sizes(train.y, material.classes, fractions)
        started = time.monotonic()
        logger.info(
            f"{name}: {len(seeds)} draws of {', '.join(map(str, sizes))} images"
        )
        points = measure_subsets(train, test, sizes, seeds, PROTOCOLS[protocol])
        grown[name] = LearningCurve(points=points, fit=fit_curve(points))
        seconds += time.monotonic() - started
    return DataSizeResult(
        data=data,
        protocol=protocol,
        curves=grown,
        sizes=sizes,
        seeds=tuple(seeds),
        classes=len(material.classes),
        seconds=round(seconds, 1),
    )


def measure_subsets(
    train: LabeledFeatures,
    test: LabeledFeatures,
    sizes: Sequence[int],
    seeds: Sequence[int],
    protocol: Protocol = ridge,
) -> SubsetResults:
    """The accuracy of every subset; all images are measured once.

    Args:
        sizes: of `subset_sizes`.
    """
    found: list[tuple[int, float, int]] = []
    whole = protocol(train.x, train.y, test.x, test.y)
    for seed in seeds:
        order = nested_order(train.y, seed)
        for size in sizes:
            if size < len(train.y):
                rows = order[:size]
                probe = protocol(train.x[rows], train.y[rows], test.x, test.y)
                found.append((size, probe.accuracy, seed))
    found.append((len(train.y), whole.accuracy, seeds[0]))
    return SubsetResults(
        sizes=tuple(size for size, _, _ in found),
        accuracies=tuple(accuracy for _, accuracy, _ in found),
        draws=tuple(seed for _, _, seed in found),
        full=whole,
    )


def fit_curve(points: SubsetResults) -> Scaling:
    """The curve of the measurements."""
    return fit_nested(points.sizes, points.accuracies)


def _split_features(material: SplitFeatures) -> tuple[LabeledFeatures, LabeledFeatures]:
    """Nothing chooses by val here, so its images are learned from too."""
    parts = [material.train, *([material.dev] if material.dev else [])]
    train = LabeledFeatures(
        np.concatenate([np.asarray(part.x) for part in parts]),
        np.concatenate([np.asarray(part.y) for part in parts]),
    )
    test = LabeledFeatures(np.asarray(material.test.x), np.asarray(material.test.y))
    return train, test


def _short_names(weights: Sequence[str]) -> list[str]:
    """The last part of each path, or as much of it as tells them apart."""
    for length in range(1, 4):
        names = ["/".join(Path(one).parts[-length:]) for one in weights]
        if len(set(names)) == len(names):
            return names
    return list(weights)


def _check(
    weights: Sequence[str], data: str, protocol: str, seeds: Sequence[int]
) -> None:
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"`--protocol` must be one of {', '.join(PROTOCOLS)}: got {protocol}."
        )
    if len(set(seeds)) < 3 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            "`--seeds` draws the subsets, and the noise is measured by three different "
            f"draws or more: got {' '.join(map(str, seeds)) or 'none'}."
        )
    if len(set(weights)) < len(weights):
        raise ConfigError("The same weights are given twice: give each once.")
    for path in weights:
        if all((Path(path) / name).is_file() for name in ("config.json", "split.csv")):
            own = open_run(path).config.data
            if own == data or Path(own).resolve() == Path(data).resolve():
                raise ConfigError(
                    f"{path} was trained on {data}: its features know all of these "
                    "images already, so a curve of parts of them would show nothing. "
                    "Give the weights that it began with."
                )
