"""How much would more training images help? accuracy(n) = a - b n^-c, with intervals.

A saturating power law fits learning curves of classifiers (Hestness et al., arXiv
1712.00409, section 2); a is where it ends, c how fast it gets there. For a given c the
curve is linear in a and b, so the fit searches c alone. Intervals are a parametric
bootstrap: measurements are drawn around the fit and fitted again. Drawing the curve:
vitral.plots. Where a curve bends for another reason than saturation is not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from vitral.errors import ConfigError, DataError
from vitral.evaluation.intervals import Interval

FEWEST_SIZES = 3
FEWEST_POINTS = 4
FLAT_BELOW = 0.01
"""Share by which twice the images must be able to help for a curve not to be flat."""
_EXPONENTS = np.geomspace(0.01, 4.0, 240)
_WILSON_WIDTH = 2 * 1.959964
"""Width of a 95 % interval in standard deviations."""


class Expected(NamedTuple):
    """What to expect of a training set of this size."""

    images: float
    accuracy: float
    interval: Interval
    """Of one new measurement, with its noise."""
    beyond: float
    """How many times the largest measured size this is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """A fitted learning curve; shares in 0..1."""

    a: float
    """Accuracy that no number of images exceeds."""
    b: float
    c: float
    a_interval: Interval
    noise: float
    """Standard deviation of one measurement around the curve."""
    largest: float
    """Largest measured size."""
    gain: float
    """What twice the largest size would add."""
    gain_interval: Interval
    trend: Literal["flat", "rising", "unclear"]
    verdict: str
    confidence: float
    """Of every interval."""
    draws: Float[np.ndarray, "resamples 4"]
    """a, b, c and noise of every resample."""
    seed: int

    def at(self, sizes: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        """The fitted curve."""
        return self.a - self.b * sizes**-self.c

    def predict(self, images: int | float) -> Expected:
        """The accuracy of one new training with `images` images.

        Raises:
            ConfigError: `images` < 1.
        """
        if images < 1:
            raise ConfigError(f"a size must be 1 image or more: got {images}.")
        a, b, c, noise = self.draws.T
        generator = np.random.default_rng(self.seed + 1)
        new = a - b * images**-c + noise * generator.standard_normal(len(a))
        accuracy = float(self.at(np.array([float(images)]))[0])
        return Expected(
            float(images),
            min(max(accuracy, 0.0), 1.0),
            _quantiles(np.clip(new, 0.0, 1.0), self.confidence),
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
        sizes: training images of each measurement; a size comes once for each seed.
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
    _check(images, right, intervals)
    least = _measuring_noise(intervals, len(images))
    weights = np.ones(len(images))
    if intervals is not None:
        weights = (least / least.mean()) ** -2
    curve = _Curve(images, weights / weights.mean())
    a, b, c = curve.fit(right)
    fitted = a - b * images**-c
    freedom = len(images) - 3
    spread = float((curve.weights * (right - fitted) ** 2).sum()) / freedom
    generator = np.random.default_rng(seed)
    # The spread is known from few measurements: what it may truly be is drawn too.
    scale = np.sqrt(spread * freedom / generator.chisquare(freedom, resamples))
    sd = np.maximum(scale[:, None] / np.sqrt(curve.weights), least)
    drawn = fitted + sd * generator.standard_normal((resamples, len(images)))
    noise = np.maximum(scale, np.sqrt((least**2).mean()))
    draws = np.column_stack([curve.fit_many(np.clip(drawn, 0.0, 1.0)), noise])
    largest = float(images.max())
    gain = b * (largest**-c - (2 * largest) ** -c)
    many = draws[:, 1] * (largest ** -draws[:, 2] - (2 * largest) ** -draws[:, 2])
    gains = _quantiles(many, confidence)
    trend = _trend(gains, flat_below)
    return Scaling(
        a=a,
        b=b,
        c=c,
        a_interval=_quantiles(draws[:, 0], confidence),
        noise=max(float(np.sqrt(spread)), float(np.sqrt((least**2).mean()))),
        largest=largest,
        gain=gain,
        gain_interval=gains,
        trend=trend,
        verdict=_verdict(trend, largest, gain, gains),
        confidence=confidence,
        draws=draws,
        seed=seed,
    )


class _Curve:
    """The fit for fixed sizes and weights; b >= 0 and a <= 1 always hold."""

    def __init__(
        self,
        images: Float[np.ndarray, " points"],
        weights: Float[np.ndarray, " points"],
    ) -> None:
        # Sizes around 1 keep n^-c from vanishing beside a.
        self.centre = float(np.exp(np.log(images).mean()))
        self.scaled = images / self.centre
        self.weights = weights

    def fit(self, right: Float[np.ndarray, " points"]) -> tuple[float, float, float]:
        def loss(log_c: float) -> float:
            return float(self._linear(right[None], np.exp([log_c]))[2][0])

        losses = [loss(float(np.log(c))) for c in _EXPONENTS]
        best = int(np.argmin(losses))
        ends = np.log(_EXPONENTS[[max(best - 1, 0), min(best + 1, len(losses) - 1)]])
        found = minimize_scalar(
            loss, bounds=tuple(ends), method="bounded", options={"xatol": 1e-10}
        )
        c = float(np.exp(found.x))
        a, b, _ = self._linear(right[None], np.array([c]))
        return float(a[0]), float(b[0]) * self.centre**c, c

    def fit_many(
        self, right: Float[np.ndarray, "resamples points"]
    ) -> Float[np.ndarray, "resamples 3"]:
        """a, b and c of each row."""
        losses = np.stack(
            [self._linear(right, np.array([c]))[2] for c in _EXPONENTS], axis=1
        )
        best = losses.argmin(axis=1)
        rows, middle = np.arange(len(right)), np.clip(best, 1, len(_EXPONENTS) - 2)
        before, at, after = (losses[rows, middle + step] for step in (-1, 0, 1))
        # The lowest point of the parabola through the best step and its neighbours.
        bend = before - 2 * at + after
        shift = np.where(
            bend > 0, (before - after) / np.where(bend > 0, 2 * bend, 1), 0
        )
        step = float(np.log(_EXPONENTS[1] / _EXPONENTS[0]))
        c = _EXPONENTS[middle] * np.exp(step * np.clip(shift, -1, 1))
        a, b, _ = self._linear(right, c)
        return np.column_stack([a, b * self.centre**c, c])

    def _linear(
        self,
        right: Float[np.ndarray, "rows points"],
        c: Float[np.ndarray, " exponents"],
    ) -> tuple[
        Float[np.ndarray, " rows"],
        Float[np.ndarray, " rows"],
        Float[np.ndarray, " rows"],
    ]:
        """a, b and the weighted squares, with one exponent or one for each row."""
        x = self.scaled ** -c[:, None]
        w = self.weights / self.weights.sum()
        middle, mean = x @ w, right @ w
        away = x - middle[:, None]
        b = -((right - mean[:, None]) * away) @ w / (away**2 @ w)
        b = np.maximum(b, 0.0)
        a = mean + b * middle
        # On the edge a = 1 the best b is another one.
        b = np.where(a > 1, ((1 - right) * x) @ w / (x**2 @ w), b)
        a = np.minimum(a, 1.0)
        left = right - a[:, None] + b[:, None] * x
        return a, b, left**2 @ self.weights


def _measuring_noise(
    intervals: Sequence[Interval] | None, points: int
) -> Float[np.ndarray, " points"]:
    if intervals is None:
        return np.zeros(points)
    return np.array([(high - low) / _WILSON_WIDTH for low, high in intervals])


def _quantiles(values: Float[np.ndarray, " draws"], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _trend(gains: Interval, flat_below: float) -> Literal["flat", "rising", "unclear"]:
    if gains.high < flat_below:
        return "flat"
    # A curve that must not fall always gains something: rising has to be worth it.
    return "rising" if gains.low > flat_below / 2 else "unclear"


def _verdict(trend: str, largest: float, gain: float, gains: Interval) -> str:
    twice = f"twice the images ({2 * largest:,.0f})"
    span = f"{100 * gains.low:.1f} to {100 * gains.high:.1f}"
    if trend == "flat":
        return f"Flat: {twice} would add {100 * gains.high:.1f} points at most."
    if trend == "rising":
        return f"Rising: {twice} would add about {100 * gain:.1f} points ({span})."
    return (
        f"Unclear: {twice} would add {span} points; more seeds or sizes would say more."
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
    there = len(np.unique(images))
    if there < FEWEST_SIZES or len(images) < FEWEST_POINTS:
        raise DataError(
            f"a curve of three numbers needs {FEWEST_SIZES} sizes and {FEWEST_POINTS} "
            f"measurements at least: got {there} and {len(images)}. Train on more "
            "subsets, or with more seeds."
        )
    if not (images >= 1).all() or not np.isfinite(images).all():
        raise DataError(f"a size must be 1 image or more: got {images.min():g}.")
    if not ((right >= 0) & (right <= 1)).all():
        raise DataError(
            f"accuracies must be shares in 0..1: got {right.min():g} to "
            f"{right.max():g}; divide percentages by 100."
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
