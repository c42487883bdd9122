"""Weighted least-squares fit of accuracy(n) = a - b n^-c.

For a given c the curve is linear in a and b, so the fit searches c alone. Intervals:
independent.py and nested.py.
"""

import numpy as np
from jaxtyping import Float

_EXPONENTS = np.geomspace(0.01, 4.0, 240)


class PowerLaw:
    """Fit for fixed sizes and weights, under b >= 0 and a <= 1."""

    def __init__(
        self,
        images: Float[np.ndarray, " points"],
        weights: Float[np.ndarray, " points"],
    ) -> None:
        # Sizes around 1 keep n^-c from vanishing next to a.
        self.centre = float(np.exp(np.log(images).mean()))
        self.scaled = images / self.centre
        self.weights = weights

    def fit(self, right: Float[np.ndarray, " points"]) -> tuple[float, float, float]:
        from scipy.optimize import minimize_scalar

        def loss(log_c: float) -> float:
            return float(self._linear(right[None], np.exp([log_c]))[2][0])

        losses = [loss(float(np.log(c))) for c in _EXPONENTS]
        best = int(np.argmin(losses))
        ends = np.log(_EXPONENTS[[max(best - 1, 0), min(best + 1, len(losses) - 1)]])
        minimum = minimize_scalar(
            loss, bounds=tuple(ends), method="bounded", options={"xatol": 1e-10}
        )
        c = float(np.exp(minimum.x))
        a, b, _ = self._linear(right[None], np.array([c]))
        return float(a[0]), float(b[0]) * self.centre**c, c

    def fit_many(
        self, right: Float[np.ndarray, "resamples points"]
    ) -> Float[np.ndarray, "resamples 3"]:
        """Return a, b and c of each row."""
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
        """Return a, b and the weighted squares, for one exponent or one per row."""
        x = self.scaled ** -c[:, None]
        w = self.weights / self.weights.sum()
        middle, mean = x @ w, right @ w
        away = x - middle[:, None]
        b = -((right - mean[:, None]) * away) @ w / (away**2 @ w)
        b = np.maximum(b, 0.0)
        a = mean + b * middle
        # At the bound a = 1 the best b differs.
        b = np.where(a > 1, ((1 - right) * x) @ w / (x**2 @ w), b)
        a = np.minimum(a, 1.0)
        left = right - a[:, None] + b[:, None] * x
        return a, b, left**2 @ self.weights
