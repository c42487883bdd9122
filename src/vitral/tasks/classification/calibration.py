"""Calibration of confidences: reliability bins, ECE and temperature scaling.

Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599, sections 2 and
4.2). Vector scaling and conformal sets are not implemented.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vitral.errors import ConfigError, DataError

# Colder than 1/100 or hotter than 100 no probability differs visibly from a limit.
_LOG_TEMPERATURE_BOUNDS = (-math.log(100), math.log(100))
# Prior precision of log T: a temperature of most networks lies within 1/2 and 2.
_PRIOR_PRECISION = 10.0
# Likelihood-ratio statistic (2.5 standard errors) up to which T stays 1. With both,
# models that are calibrated already get no worse for any number of images: mean NLL
# and ECE over draws of 5 to 300 (tests/test_calibration.py).
_LEAST_EVIDENCE = 6.25


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Examples whose confidence lies in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean confidence of the examples; None in an empty bin."""
    accuracy: float | None
    """Share of correct examples; None in an empty bin."""


@dataclass(frozen=True, kw_only=True)
class CalibratedMetrics:
    """Metrics of a split after its logits were divided by a temperature."""

    temperature: float
    """Above 1: the model was too confident."""
    fitted_on: str
    """Split that the temperature was fitted on."""
    fitted_n: int
    """Number of images of that split."""
    nll: float
    """Mean negative log-likelihood in nats, with the temperature."""
    ece: float
    """Expected calibration error, 15 bins, with the temperature."""


def reliability(
    confidence: Float[np.ndarray, " examples"],
    correct: Bool[np.ndarray, " examples"],
    *,
    bins: int = 15,
) -> tuple[Bin, ...]:
    """Sort examples into `bins` equal steps of confidence (0 belongs to the first).

    Raises:
        ConfigError: `bins` < 1.
        DataError: a confidence is not in 0..1.
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1: got {bins}.")
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1):
        raise DataError(
            f"a confidence must lie in 0..1: got {confidence.min():g} to "
            f"{confidence.max():g}. Pass probabilities, not logits."
        )
    confidence = confidence.astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    bin_index = np.clip(
        np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1
    )
    rows = []
    for i in range(bins):
        inside = bin_index == i
        count = int(inside.sum())
        rows.append(
            Bin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                count=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(correct[inside].mean()) if count else None,
            )
        )
    return tuple(rows)


def ece(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: mean |accuracy - confidence|, by counts.

    Raises:
        DataError: every bin is empty.
    """
    total = sum(row.count for row in bins)
    if total == 0:
        raise DataError("the calibration error needs at least one example: got none.")
    gaps = [
        row.count * abs(row.accuracy - row.confidence)
        for row in bins
        if row.accuracy is not None and row.confidence is not None
    ]
    return sum(gaps) / total


def fit_temperature(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
) -> float:
    """Fit a divisor of logits by their likelihood, shrunk towards 1.

    Above 1: the model was too confident. Dividing never changes the predicted class.
    Fit it on examples that are not the test set. The result lies in 0.01..100.

    log T has a normal prior of mean 0 and standard deviation 0.32. Its most probable
    value is multiplied by 1 - 6.25 / G, at least 0, where G is twice the gain in
    log-likelihood over T = 1 (a positive-part James-Stein estimate: Efron and Morris,
    "Stein's estimation rule and its competitors", JASA 68, 1973). So a handful of
    examples gives 1, and of thousands the maximum of the likelihood is left.

    Raises:
        DataError: there is no example.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if len(labels) == 0:
        raise DataError("a temperature needs at least one example: got none.")
    scores = logits.astype(np.float64)
    label_scores = scores[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        nll = (logsumexp(scores * inverse, axis=1) - label_scores * inverse).sum()
        return float(nll + _PRIOR_PRECISION * log_temperature**2 / 2)

    fit = minimize_scalar(
        loss, bounds=_LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-7}
    )
    gain = 2 * (loss(0.0) - float(fit.fun))
    share = max(0.0, 1 - _LEAST_EVIDENCE / gain) if gain > 0 else 0.0
    return math.exp(share * float(fit.x))


def log_softmax(
    logits: Float[np.ndarray, "examples classes"],
) -> Float[np.ndarray, "examples classes"]:
    """Return log-probabilities in double precision."""
    from scipy.special import logsumexp

    scores = logits.astype(np.float64)
    return scores - logsumexp(scores, axis=1, keepdims=True)


def calibrate(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    temperature: float,
    *,
    fitted_on: str,
    fitted_n: int,
) -> CalibratedMetrics:
    """Return the metrics of these logits with a temperature from another set.

    Raises:
        DataError: there is no example.
    """
    if len(labels) == 0:
        raise DataError("calibration needs at least one example: got none.")
    scores = logits.astype(np.float64) / temperature
    log_prob = log_softmax(scores)
    label_log_prob = log_prob[np.arange(len(labels)), labels]
    confidence = np.minimum(np.exp(log_prob.max(axis=1)), 1.0)
    return CalibratedMetrics(
        temperature=temperature,
        fitted_on=fitted_on,
        fitted_n=fitted_n,
        nll=float(-label_log_prob.mean()),
        ece=ece(reliability(confidence, scores.argmax(axis=1) == labels)),
    )
