"""Selective classification: risk at each coverage, and the area under the curve.

Geifman and El-Yaniv, "Selective classification for deep neural networks" (arXiv
1705.08500); excess over a perfect order: Geifman, Uziel and El-Yaniv (arXiv
1805.08206, section 3). Thresholds with a guarantee are not implemented.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vitral.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """Risk-coverage curve, one point per confidence, the highest first."""

    threshold: Float[np.ndarray, " points"]
    """Lowest confidence of the answered examples."""
    coverage: Float[np.ndarray, " points"]
    """Share of all examples that is answered."""
    risk: Float[np.ndarray, " points"]
    """Share of wrong answers among the answered examples."""
    area: float
    """Mean risk over the coverages 1/n, 2/n, ..., 1; 0 is best."""
    best_area: float
    """Area if every correct answer had a higher confidence than every wrong one."""

    @property
    def excess(self) -> float:
        """Part of the area that a better order would remove."""
        return self.area - self.best_area

    def coverage_at(self, risk: int | float) -> float:
        """Return the largest coverage whose risk is at most `risk`; 0 without one."""
        if not 0 <= risk <= 1:
            raise ConfigError(f"a risk must lie in 0..1: got {risk}.")
        allowed = self.coverage[self.risk <= risk]
        return float(allowed.max()) if len(allowed) else 0.0


def risk_coverage(
    confidence: Float[np.ndarray, " examples"],
    correct: Bool[np.ndarray, " examples"],
    *,
    unreadable: int = 0,
) -> RiskCoverage:
    """Sort by confidence and count the errors among the most confident.

    Equal confidences are answered together. In such a group the area takes the mean
    over all orders, so the order of the examples never matters.

    Args:
        confidence: any finite score, higher for surer.
        correct: true for a right answer.
        unreadable: files without an answer: wrong, and answered last of all, with the
            threshold minus infinity.

    Raises:
        DataError: no example, or a confidence is not finite.
        ConfigError: `unreadable` is negative.
    """
    if unreadable < 0:
        raise ConfigError(f"unreadable must be 0 or more: got {unreadable}.")
    n = len(confidence) + unreadable
    if n == 0:
        raise DataError("risk against coverage needs at least one example: got none.")
    if not np.isfinite(confidence).all():
        raise DataError("a confidence is not finite: pass one finite score an example.")
    scores = np.concatenate(
        [confidence.astype(np.float64), np.full(unreadable, -np.inf)]
    )
    wrong = np.concatenate([~correct, np.ones(unreadable, dtype=bool)])
    order = np.argsort(-scores, kind="stable")
    scores, errors = scores[order], np.cumsum(wrong[order])
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), n - 1)
    answered = np.arange(1, n + 1)
    expected = np.interp(answered, np.append(0, last + 1), np.append(0, errors[last]))
    right = n - int(wrong.sum())
    return RiskCoverage(
        threshold=scores[last],
        coverage=(last + 1) / n,
        risk=errors[last] / (last + 1),
        area=float((expected / answered).mean()),
        best_area=float((np.maximum(answered - right, 0) / answered).mean()),
    )
