"""Test every two of several models on the same images, with Holm's correction.

Shares of right answers by McNemar's exact test, other scores by a paired bootstrap of
the difference of their means (Efron and Tibshirani 1993, chapters 13 and 15).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from vitral.errors import ConfigError, DataError
from vitral.evaluation.compare import ALPHA, holm, mcnemar, paired_bootstrap
from vitral.evaluation.intervals import Interval, percentile_interval

RESAMPLES = 10_000
MAX_DRAWN = 4_000_000
"""Draws at a time, which take 32 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTest:
    """Two models on the same images, by their places in the list of models."""

    first: int
    second: int
    difference: float
    """Mean score of the second minus that of the first."""
    interval: Interval
    """95 % paired bootstrap interval of the difference."""
    only_first: int | None
    """Images that only the first has right; None for scores that are no shares."""
    only_second: int | None
    p: float
    p_corrected: float
    """After Holm's correction over all pairs."""

    @property
    def differs(self) -> bool:
        return self.p_corrected < ALPHA


def compare_pairs(
    scores: Sequence[Shaped[np.ndarray, " images"]], *, seed: int = 0
) -> tuple[PairedTest, ...]:
    """Test each model against each later one.

    Args:
        scores: of each model, one a image in the same order: bool for right or wrong,
            or numbers.
        seed: of the bootstrap.

    Raises:
        ConfigError: fewer than two models.
        DataError: no image, or the models have different numbers of them.
    """
    sizes = sorted({len(own) for own in scores})
    if len(scores) < 2:
        raise ConfigError(f"a comparison needs two models or more: got {len(scores)}.")
    if len(sizes) > 1 or not sizes[0]:
        raise DataError(
            "a comparison needs one score an image of each model, and at least one "
            f"image: got {' and '.join(map(str, sizes))} scores."
        )
    shares = all(own.dtype == bool for own in scores)
    pairs = list(itertools.combinations(range(len(scores)), 2))
    if shares:
        only = [_only(scores[a], scores[b]) for a, b in pairs]
        p = [mcnemar(*counts) for counts in only]
        spans = [paired_bootstrap(*counts, sizes[0], seed=seed) for counts in only]
    else:
        only = []
        values = np.stack([np.asarray(own, dtype=np.float64) for own in scores], axis=1)
        means = _bootstrap_means(values, seed)
        drawn = [means[:, b] - means[:, a] for a, b in pairs]
        p = [_bootstrap_p(own) for own in drawn]
        spans = [percentile_interval(own, 0.95) for own in drawn]
    rows = zip(pairs, spans, p, holm(p), strict=True)
    return tuple(
        PairedTest(
            first=a,
            second=b,
            difference=float(np.mean(scores[b]) - np.mean(scores[a])),
            interval=span,
            only_first=only[place][0] if only else None,
            only_second=only[place][1] if only else None,
            p=raw,
            p_corrected=corrected,
        )
        for place, ((a, b), span, raw, corrected) in enumerate(rows)
    )


def _only(
    first: Shaped[np.ndarray, " images"], second: Shaped[np.ndarray, " images"]
) -> tuple[int, int]:
    return int((first & ~second).sum()), int((second & ~first).sum())


def _bootstrap_means(
    values: Float[np.ndarray, "images models"], seed: int
) -> Float[np.ndarray, "draws models"]:
    """Return the mean of each model over each draw of images, the same for all."""
    n = len(values)
    generator = np.random.default_rng(seed)
    means, most = [], max(1, MAX_DRAWN // n)
    for start in range(0, RESAMPLES, most):
        size = (min(most, RESAMPLES - start), n)
        rows = generator.integers(0, n, size=size)
        means.append(np.stack([own[rows].mean(axis=1) for own in values.T], axis=1))
    return np.concatenate(means)


def _bootstrap_p(drawn: Float[np.ndarray, " draws"]) -> float:
    """Return the two-sided p that a difference is 0; at least 2 / (draws + 1)."""
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))
