"""Learning curve from independent trainings: accuracy(n) = a - b n^-c, with intervals.

A saturating power law fits learning curves of classifiers (Hestness et al., arXiv
1712.00409, section 2): a is the limit, c the speed. Intervals are a parametric
bootstrap: measurements are drawn around the fit and fitted again. Subsets of one set:
nested.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from vitral.errors import ConfigError, DataError
from vitral.evaluation.intervals import Interval, percentile_interval
from vitral.evaluation.learning_curves.power_law import PowerLaw

MIN_SIZES = 3
MIN_POINTS = 4
FLAT_BELOW = 0.01
"""Gain of twice the images below which a curve is flat."""
_WILSON_WIDTH = 2 * 1.959964
"""Width of a 95 % interval in standard deviations."""


@dataclass(frozen=True, slots=True)
class ExpectedAccuracy:
    """Expected accuracy for one size of the training set."""

    images: float
    accuracy: float
    interval: Interval
    """Interval of one new measurement, noise included."""
    beyond: float
    """Ratio of this size to the largest measured one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """A fitted learning curve; shares in 0..1."""

    a: float
    """Limit of the accuracy."""
    b: float
    c: float
    a_interval: Interval
    noise: float
    """Standard deviation of one measurement around the curve, at the largest size."""
    noise_falls: float = 0.0
    """The noise at n is that times (n / largest)^-noise_falls."""
    largest: float
    """Largest measured size."""
    gain: float
    """Gain of twice the largest size."""
    gain_interval: Interval
    trend: Literal["flat", "rising", "unclear"]
    verdict: str
    confidence: float
    """Confidence of every interval."""
    draws: Float[np.ndarray, "resamples 4"]
    """a, b, c and noise of every resample."""
    seed: int

    def at(self, sizes: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        """Return the fitted curve."""
        return self.a - self.b * sizes**-self.c

    def predict(self, images: int | float) -> ExpectedAccuracy:
        """Predict the accuracy of one new training with `images` images.

        Raises:
            ConfigError: `images` < 1.
        """
        if images < 1:
            raise ConfigError(f"a size must be 1 image or more: got {images}.")
        a, b, c, noise = self.draws.T
        generator = np.random.default_rng(self.seed + 1)
        noise = noise * (images / self.largest) ** -self.noise_falls
        new = a - b * images**-c + noise * generator.standard_normal(len(a))
        accuracy = float(self.at(np.array([float(images)]))[0])
        return ExpectedAccuracy(
            float(images),
            min(max(accuracy, 0.0), 1.0),
            percentile_interval(np.clip(new, 0.0, 1.0), self.confidence),
            images / self.largest,
        )


def fit_scaling(
    sizes: Sequence[int | float],
    accuracies: Sequence[float],
    intervals: Sequence[Interval] | None = None,
    *,
    flat_below: float = FLAT_BELOW,
    resamples: int = 1000,
    confidence: float = 0.9,
    seed: int = 0,
) -> Scaling:
    """Fit the curve to measurements over sizes and seeds.

    Args:
        sizes: training images of each measurement; a size occurs once for each seed.
        accuracies: the share right of each.
        intervals: the 95 % interval of each, by which exact ones weigh more; the noise
            is never taken to be less than they say.
        flat_below: the curve is flat when twice the images surely add less.
        resamples: draws of the bootstrap.
        confidence: of every interval.
        seed: of the bootstrap.

    Raises:
        DataError: fewer than 3 sizes or 4 measurements, lengths that differ, a size
            below 1, or an accuracy that is not a share or outside of its interval.
        ConfigError: `resamples` < 1, `flat_below` <= 0, `confidence` not in (0, 1).
    """
    if resamples < 1 or flat_below <= 0 or not 0 < confidence < 1:
        raise ConfigError(
            "a fit needs resamples >= 1, flat_below > 0 and a confidence strictly "
            f"between 0 and 1: got {resamples}, {flat_below} and {confidence}."
        )
    images = np.asarray(sizes, dtype=np.float64)
    right = np.asarray(accuracies, dtype=np.float64)
    check_points(images, right)
    _check(images, right, intervals)
    least = _measuring_noise(intervals, len(images))
    weights = np.ones(len(images))
    if intervals is not None:
        weights = (least / least.mean()) ** -2
    curve = PowerLaw(images, weights / weights.mean())
    a, b, c = curve.fit(right)
    fitted = a - b * images**-c
    freedom = len(images) - 3
    spread = float((curve.weights * (right - fitted) ** 2).sum()) / freedom
    generator = np.random.default_rng(seed)
    # The spread is estimated from few measurements, so it is drawn too.
    scale = np.sqrt(spread * freedom / generator.chisquare(freedom, resamples))
    sd = np.maximum(scale[:, None] / np.sqrt(curve.weights), least)
    drawn = fitted + sd * generator.standard_normal((resamples, len(images)))
    noise = np.maximum(scale, np.sqrt((least**2).mean()))
    draws = np.column_stack([curve.fit_many(np.clip(drawn, 0.0, 1.0)), noise])
    return make_scaling(
        (a, b, c),
        draws,
        noise=max(float(np.sqrt(spread)), float(np.sqrt((least**2).mean()))),
        largest=float(images.max()),
        flat_below=flat_below,
        confidence=confidence,
        seed=seed,
    )


def make_scaling(
    curve: tuple[float, float, float],
    draws: Float[np.ndarray, "resamples 4"],
    *,
    noise: float,
    largest: float,
    flat_below: float,
    confidence: float,
    seed: int,
    noise_falls: float = 0.0,
) -> Scaling:
    """Build the result of a curve (a, b, c) and its resamples."""
    a, b, c = curve
    gain = b * (largest**-c - (2 * largest) ** -c)
    many = draws[:, 1] * (largest ** -draws[:, 2] - (2 * largest) ** -draws[:, 2])
    gains = percentile_interval(many, confidence)
    trend = _classify_trend(gains, flat_below)
    return Scaling(
        a=a,
        b=b,
        c=c,
        a_interval=percentile_interval(draws[:, 0], confidence),
        noise=noise,
        noise_falls=noise_falls,
        largest=largest,
        gain=gain,
        gain_interval=gains,
        trend=trend,
        verdict=_format_verdict(trend, largest, gain, gains),
        confidence=confidence,
        draws=draws,
        seed=seed,
    )


def _measuring_noise(
    intervals: Sequence[Interval] | None, points: int
) -> Float[np.ndarray, " points"]:
    if intervals is None:
        return np.zeros(points)
    return np.array([(high - low) / _WILSON_WIDTH for low, high in intervals])


def _classify_trend(
    gains: Interval, flat_below: float
) -> Literal["flat", "rising", "unclear"]:
    if gains.high < flat_below:
        return "flat"
    # A curve that cannot fall always gains something, so rising needs a margin.
    return "rising" if gains.low > flat_below / 2 else "unclear"


def _format_verdict(trend: str, largest: float, gain: float, gains: Interval) -> str:
    twice = f"twice the images ({2 * largest:,.0f})"
    span = f"{100 * gains.low:.1f} to {100 * gains.high:.1f}"
    if trend == "flat":
        return f"Flat: {twice} would add {100 * gains.high:.1f} points at most."
    if trend == "rising":
        return f"Rising: {twice} would add about {100 * gain:.1f} points ({span})."
    return (
        f"Unclear: {twice} would add {span} points; more seeds or sizes would say more."
    )


def check_points(
    images: Float[np.ndarray, " points"], right: Float[np.ndarray, " others"]
) -> None:
    """Check the sizes and accuracies of all measurements."""
    if len(images) != len(right):
        raise DataError(
            "every measurement needs a size and an accuracy: got "
            f"{len(images)} sizes, {len(right)} accuracies."
        )
    if not (images >= 1).all() or not np.isfinite(images).all():
        raise DataError(f"a size must be 1 image or more: got {images.min():g}.")
    if not ((right >= 0) & (right <= 1)).all():
        raise DataError(
            f"accuracies must be shares in 0..1: got {right.min():g} to "
            f"{right.max():g}; divide percentages by 100."
        )


def _check(
    images: Float[np.ndarray, " points"],
    right: Float[np.ndarray, " others"],
    intervals: Sequence[Interval] | None,
) -> None:
    if len(images) != len(right) or (
        intervals is not None and len(intervals) != len(images)
    ):
        others = "" if intervals is None else f" and {len(intervals)} intervals"
        raise DataError(
            "every measurement needs a size, an accuracy and, if any has one, an "
            f"interval: got {len(images)} sizes, {len(right)} accuracies{others}."
        )
    num_sizes = len(np.unique(images))
    if num_sizes < MIN_SIZES or len(images) < MIN_POINTS:
        raise DataError(
            f"a curve of three numbers needs {MIN_SIZES} sizes and {MIN_POINTS} "
            f"measurements at least: got {num_sizes} and {len(images)}. Train on more "
            "subsets, or with more seeds."
        )
    for value, interval in zip(right, intervals or (), strict=False):
        if not interval.low <= value <= interval.high:
            raise DataError(
                f"an accuracy must lie in its interval: {value:.4f} is outside of "
                f"{interval.low:.4f} to {interval.high:.4f}."
            )
        if interval.low == interval.high:
            raise DataError(
                f"the interval of {value:.4f} has no width: leave intervals out, or "
                "take Wilson's."
            )
