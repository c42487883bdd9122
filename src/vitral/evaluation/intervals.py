"""Confidence intervals: Wilson's score for shares, a bootstrap for other metrics.

Wilson, "Probable inference, the law of succession, and statistical inference", JASA
1927; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13
(percentiles). Two models on the same images: compare.py.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from vitral.errors import ConfigError


class Interval(NamedTuple):
    """Ends of an interval, both included."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Return whether `value` lies between the ends or on one of them."""
        return self.low <= value <= self.high


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of a share; (0, 1) without examples.

    Raises:
        ConfigError: `successes` is not in 0..n, or `confidence` not in (0, 1).
    """
    _check_confidence(confidence)
    if not 0 <= successes <= n:
        raise ConfigError(
            f"successes must lie in 0..n: got {successes} of {n}. Count each example "
            "once."
        )
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n the exact end is 0 or 1; rounding would leave 1e-17 there.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return Interval(low, high)


def bootstrap(
    metric: Callable[[Int[np.ndarray, " drawn"]], float],
    n: int,
    *,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Return the percentile interval of a metric over examples drawn with replacement.

    Args:
        metric: computes the number from the indices of the drawn examples.
        n: number of examples.
        seed: fixes the draws; the same seed gives the same interval.
        resamples: number of draws of `n` examples.
        confidence: share of the resampled values between the two ends.

    Raises:
        ConfigError: no example, `resamples` < 1, or `confidence` not in (0, 1).
    """
    _check_confidence(confidence)
    if n < 1 or resamples < 1:
        raise ConfigError(
            "a bootstrap needs at least one example and one resample: got "
            f"n={n}, resamples={resamples}."
        )
    generator = np.random.default_rng(seed)
    values = np.array(
        [metric(generator.integers(0, n, size=n)) for _ in range(resamples)]
    )
    return percentile_interval(values, confidence)


def mean_interval(scores: Shaped[np.ndarray, " examples"]) -> Interval:
    """Return the 95 % interval of a mean: Wilson's for shares, else a bootstrap.

    Args:
        scores: bool, or numbers.
    """
    if scores.dtype == bool:
        return wilson(int(scores.sum()), len(scores))
    return bootstrap(lambda rows: float(scores[rows].mean()), len(scores))


def percentile_interval(
    values: Float[np.ndarray, " draws"], confidence: float
) -> Interval:
    """Return the interval that holds the middle `confidence` of the values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def format_percent(interval: tuple[float, float]) -> str:
    """Format an interval of shares as `91.2 to 94.5`."""
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(
            f"confidence must lie strictly between 0 and 1: got {confidence}. "
            "Write 0.95 for 95 %."
        )
