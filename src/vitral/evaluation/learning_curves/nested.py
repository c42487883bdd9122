"""Learning curve from nested subsets of one training set, on one test set.

Unlike independent trainings, such measurements are correlated. Their variance falls
with a power of the size; draws of n of N images overlap and show only 1 - n/N of it; a
part is common to all. Small subsets may not be on the curve yet, so the interval is
over fits that leave out none, one, two ... sizes. Coverage: benchmarks/data_size.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vitral.errors import ConfigError, DataError
from vitral.evaluation.learning_curves.independent import (
    FLAT_BELOW,
    Scaling,
    check_points,
    make_scaling,
)
from vitral.evaluation.learning_curves.power_law import PowerLaw

MIN_DRAWS = 3
MIN_NESTED_SIZES = 4
MIN_FIT_SIZES = 3
"""Sizes of the shortest fit: the curve has three parameters."""
SHARED_VARIANCE = 0.5
"""Share of the variance with all images that is common to all subsets. For a mean it
would be 1; measured on solar cells, halves follow their own quarters by less."""
MIN_DEVIATION = 2e-4
"""Floor of the deviation: draws may agree by chance, or without hard images."""


@dataclass(frozen=True, slots=True)
class _Points:
    sizes: Float[np.ndarray, " points"]
    right: Float[np.ndarray, " accuracies"]
    """As many as sizes, which `_check` makes sure of."""

    def from_size(self, start: float) -> "_Points":
        large_enough = self.sizes >= start
        return _Points(self.sizes[large_enough], self.right[large_enough])


@dataclass(frozen=True, slots=True)
class _Noise:
    """Standard deviation of a measurement over independent training images."""

    at_full: float
    full_size: float
    decay: float
    dof: int

    def at(self, sizes: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        return self.at_full * (sizes / self.full_size) ** -self.decay


def fit_nested(
    sizes: Sequence[int],
    accuracies: Sequence[float],
    *,
    flat_below: float = FLAT_BELOW,
    resamples: int = 1000,
    confidence: float = 0.9,
    seed: int = 0,
) -> Scaling:
    """Fit the curve to subsets of one training set.

    Args:
        sizes: training images of each measurement; the largest are all there are, and
            are measured once.
        accuracies: the share right of each, on the same test images.
        flat_below: the curve is flat when twice the images surely add less.
        resamples: draws of the bootstrap.
        confidence: of every interval. That of `predict` is for a measurement on the
            same test images.

    Raises:
        DataError: fewer than four sizes, a size below the largest with fewer than three
            draws, the largest more than once, or an accuracy that is not a share.
        ConfigError: `resamples` < 100, `flat_below` <= 0, `confidence` not in (0, 1).
    """
    if resamples < 100 or flat_below <= 0 or not 0 < confidence < 1:
        raise ConfigError(
            "a fit needs resamples >= 100, flat_below > 0 and a confidence strictly "
            f"between 0 and 1: got {resamples}, {flat_below} and {confidence}."
        )
    points = _Points(
        np.asarray(sizes, dtype=np.float64),
        np.asarray(accuracies, dtype=np.float64),
    )
    _check(points)
    noise = _estimate_noise(points)
    starts = _fit_starts(points.sizes)
    generator = np.random.default_rng(seed)
    splits = np.array_split(np.arange(resamples), len(starts))
    drawn = np.concatenate(
        [
            _bootstrap_fits(points.from_size(start), noise, len(split), generator)
            for start, split in zip(starts, splits, strict=True)
        ]
    )
    return make_scaling(
        _fit_curve(points, noise, median_fit_start(points.sizes))[1],
        drawn,
        noise=noise.at_full,
        noise_falls=noise.decay,
        largest=noise.full_size,
        flat_below=flat_below,
        confidence=confidence,
        seed=seed,
    )


def median_fit_start(sizes: Float[np.ndarray, " points"]) -> float:
    """Return the smallest size of the fit whose a, b and c are reported."""
    starts = _fit_starts(sizes)
    return float(starts[len(starts) // 2])


def _fit_starts(sizes: Float[np.ndarray, " points"]) -> Float[np.ndarray, " fits"]:
    """Return the smallest size of each fit."""
    unique_sizes = np.unique(sizes)
    return unique_sizes[: len(unique_sizes) - MIN_FIT_SIZES + 1]


def _estimate_noise(points: _Points) -> _Noise:
    """Estimate the noise from the spread of the draws at each size but the largest."""
    from scipy.special import digamma

    full_size = points.sizes.max()
    sizes = np.unique(points.sizes)[:-1]
    groups = [points.right[points.sizes == size] for size in sizes]
    dof = np.array([len(group) - 1 for group in groups])
    variance = np.array([group.var(ddof=1) for group in groups]) / (
        1 - sizes / full_size
    )
    # The logarithm of an estimated variance is biased low by this much.
    log = np.log(np.maximum(variance, MIN_DEVIATION**2))
    log -= digamma(dof / 2) - np.log(dof / 2)
    x = np.log(sizes / full_size)
    middle, mean = np.average(x, weights=dof), np.average(log, weights=dof)
    slope = ((x - middle) * (log - mean)) @ dof / ((x - middle) ** 2 @ dof)
    decay = float(np.clip(-slope / 2, 0.0, 1.0))
    at_full = float(np.exp((mean + 2 * decay * middle) / 2))
    return _Noise(at_full, float(full_size), decay, int(dof.sum()))


def _fit_curve(
    points: _Points, noise: _Noise, start: float
) -> tuple[PowerLaw, tuple[float, float, float]]:
    """Fit the curve through the sizes from `start` on."""
    part = points.from_size(start)
    weights = noise.at(part.sizes) ** -2
    law = PowerLaw(part.sizes, weights / weights.mean())
    return law, law.fit(part.right)


def _bootstrap_fits(
    points: _Points, noise: _Noise, count: int, generator: np.random.Generator
) -> Float[np.ndarray, "many 4"]:
    """Return a, b, c and noise of fits to measurements drawn around the fit."""
    law, (a, b, c) = _fit_curve(points, noise, points.sizes.min())
    # The noise is estimated from few measurements, so it is drawn too.
    scale = np.sqrt(noise.dof / generator.chisquare(noise.dof, count))
    shared = SHARED_VARIANCE * noise.at_full**2
    independent = np.sqrt(np.maximum(noise.at(points.sizes) ** 2 - shared, 0.0))
    error = np.sqrt(shared) * generator.standard_normal((count, 1))
    error = error + independent * generator.standard_normal((count, len(independent)))
    curve = a - b * points.sizes**-c
    drawn = np.clip(curve + scale[:, None] * error, 0.0, 1.0)
    return np.column_stack([law.fit_many(drawn), scale * noise.at_full])


def _check(points: _Points) -> None:
    check_points(points.sizes, points.right)
    sizes, counts = np.unique(points.sizes, return_counts=True)
    if len(sizes) < MIN_NESTED_SIZES:
        raise DataError(
            f"a curve over subsets needs {MIN_NESTED_SIZES} sizes: got {len(sizes)}."
        )
    if counts[-1] != 1:
        raise DataError(
            f"the largest size, {sizes[-1]:.0f}, is all the images, which can be drawn "
            f"in one way only: got {counts[-1]} measurements of it. Give one."
        )
    if counts[:-1].min() < MIN_DRAWS:
        few = sizes[int(counts[:-1].argmin())]
        raise DataError(
            f"the noise is measured by draws, and {few:.0f} images were drawn "
            f"{counts[:-1].min()} times: draw each size {MIN_DRAWS} times or more."
        )
