"""Errors of numbers with bootstrap intervals, and split conformal intervals.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Lei et al.,
"Distribution-free predictive inference for regression", arXiv 1604.04173, section 2.2.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from vitral.evaluation import Interval
from vitral.evaluation.intervals import percentile_interval

NAMES = ("mae", "rmse", "r2", "spearman")
RESAMPLES = 1000
SEED = 0
Vector = Float[np.ndarray, " examples"]
Measure = Callable[[Vector], Float[np.ndarray, " measures"]]
"""The numbers NAMES of one column, from how often each example counts."""


class ColumnMeasure:
    """Measures of one column for any weights; NaN where one is undefined."""

    def __init__(self, truth: Vector, values: Vector) -> None:
        """Keep a column; `truth` is NaN where it is missing."""
        self.rows = np.flatnonzero(~np.isnan(truth))
        self.truth, self.values = truth[self.rows], values[self.rows]
        self.error = self.values - self.truth
        self.codes = [
            np.unique(column, return_inverse=True)[1]
            for column in (self.truth, self.values)
        ]

    def __call__(self, weights: Vector) -> Float[np.ndarray, " measures"]:
        """Return NAMES, where example i counts `weights[i]` times."""
        own = weights[self.rows]
        total = own.sum()
        if not total:
            return np.full(len(NAMES), np.nan)
        squares = own @ self.error**2
        # All equal: rounding of the mean would leave a variance.
        seen = self.truth[own > 0]
        centred = self.truth - own @ self.truth / total
        variance = own @ centred**2 if seen.min() < seen.max() else 0.0
        r2 = 1 - squares / variance if variance > 0 else np.nan
        mae = own @ np.abs(self.error) / total
        rmse = math.sqrt(squares / total)
        return np.array([mae, rmse, r2, self._rank_correlation(own)])

    def _rank_correlation(self, weights: Vector) -> float:
        """Return Spearman's correlation; equal numbers share their mean rank."""
        centred = []
        for codes in self.codes:
            counts = np.bincount(codes, weights=weights)
            rank = (counts.cumsum() - (counts - 1) / 2)[codes]
            centred.append(rank - weights @ rank / weights.sum())
        truth, values = centred
        scale = (weights @ truth**2) * (weights @ values**2)
        return float(weights @ (truth * values) / math.sqrt(scale)) if scale else np.nan


def mean_measure(columns: Sequence[ColumnMeasure]) -> Measure:
    """Return the mean over columns; those where a number is undefined are left out."""

    def measure(weights: Vector) -> Float[np.ndarray, " measures"]:
        table = np.stack([column(weights) for column in columns])
        count = (~np.isnan(table)).sum(axis=0)
        return np.where(count, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)

    return measure


def bootstrap_intervals(
    measure: Measure, n: int, *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Interval | None]:
    """Return 95 % intervals of NAMES from the draws of `vitral.evaluation.bootstrap`.

    All numbers are taken of one draw. Draws where a number is undefined are left out;
    None where it always is.
    """
    generator = np.random.default_rng(seed)
    draws = np.stack(
        [
            measure(np.bincount(generator.integers(0, n, size=n), minlength=n) * 1.0)
            for _ in range(resamples)
        ]
    )
    columns = (column[~np.isnan(column)] for column in draws.T)
    return [percentile_interval(c, 0.95) if len(c) else None for c in columns]


def conformal_half_width(errors: Vector, percent: int = 90) -> float | None:
    """Return the half width of an interval that holds `percent` of new numbers.

    It is the ceil((n + 1) · percent / 100)-th smallest absolute error of n numbers that
    the model did not learn from; None where n is too small for that.
    """
    rank = _conformal_rank(len(errors), percent)
    if rank > len(errors):
        return None
    return float(np.partition(np.abs(errors), rank - 1)[rank - 1])


def coverage_range(n: int, percent: int = 90) -> Interval:
    """Return the 95 % range of the share that a half width from n numbers holds.

    The share has a beta distribution over draws of the n numbers (Vovk, "Conditional
    validity of inductive conformal predictors", arXiv 1209.2673, section 2); `percent`
    is its mean, and few numbers spread it.
    """
    from scipy.stats import beta

    rank = _conformal_rank(n, percent)
    low, high = beta.ppf((0.025, 0.975), rank, n + 1 - rank)
    return Interval(float(low), float(high))


def _conformal_rank(n: int, percent: int) -> int:
    return -(-(n + 1) * percent // 100)


LEAST_NUMBERS = 9
"""Numbers that a 90 % interval needs."""
