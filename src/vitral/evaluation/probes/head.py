"""A linear head for frozen features: logistic regression with a strength from folds.

The strength of the penalty is the one with the lowest log loss over stratified folds
of the training images. Mean and deviation of the features are folded into the head, so
that it reads features as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from vitral.evaluation.probes.linear import LinearFit, LinearSolver, fit, log_loss

FEW_CLASSES = 100
"""Classes up to which the weaker half of the penalties is left out."""
CS = (-3.5, 0.0)
CS_MANY = (-1.5, 1.5)
"""Ends of the search in powers of ten of C, the inverse penalty."""
WIDEST = 3.0
"""Power of ten at which the search ends where the optimum is not inside."""
STEP = 0.5
FOLDS = 5
TOLERANCE = 1e-4
LAST_TOLERANCE = 1e-6
"""Slopes at which a fit of the search, and the last one, are finished."""


@dataclass(frozen=True, slots=True)
class HeadFit:
    """A linear head, and how it was chosen."""

    weight: Float[np.ndarray, "classes dim"]
    bias: Float[np.ndarray, " classes"]
    c: float
    """Inverse strength of the penalty: C times the sum of the losses."""
    losses: tuple[tuple[float, float], ...]
    """Each C that was tried, with its log loss over the folds; empty: C was given."""


def fit_head(
    x: Shaped[np.ndarray, "examples dim"],
    class_index: Int[np.ndarray, " examples"],
    num_classes: int,
    *,
    c: float | None = None,
    seed: int = 0,
) -> HeadFit:
    """Fit a head of `num_classes` outputs to features and their classes.

    Classes without an image get a row of zeros and a bias below all others.

    Args:
        c: inverse strength of the penalty; None to choose it by folds.
        seed: of the folds.
    """
    present, dense = np.unique(class_index, return_inverse=True)
    losses: dict[float, float] = {}
    if c is None and len(present) > 1:
        folds = stratified_folds(dense, seed)
        low, high = CS if len(present) <= FEW_CLASSES else CS_MANY
        losses = _search(x, dense, folds, _powers(low, high))
        # The best at the end of the search says that a better one lies beyond it.
        while max(losses, key=lambda at: -losses[at]) == max(losses) < 10**WIDEST:
            high += STEP
            losses |= _search(x, dense, folds, [10**high])
        c = min(losses, key=lambda at: losses[at])
    c = 1.0 if c is None else c
    fitted = _fit(x, dense, [c], LAST_TOLERANCE)[0] if len(present) > 1 else None
    weight = np.zeros((num_classes, x.shape[1]))
    bias = np.zeros(num_classes)
    if fitted is not None:
        rows, offsets = _fold_into_head(fitted)
        bias[:] = offsets.min() - 5
        weight[present], bias[present] = rows, offsets
    else:
        bias[present] = 5.0
    return HeadFit(
        weight.astype(np.float32),
        bias.astype(np.float32),
        float(c),
        tuple(sorted(losses.items())),
    )


def stratified_folds(
    class_index: Int[np.ndarray, " examples"], seed: int
) -> list[Int[np.ndarray, " _"]]:
    """Return the rows of each fold; classes of one image stay in training always.

    There are as many folds as the median class has images, two at least and five at
    most.
    """
    counts = np.bincount(class_index)
    count = int(min(FOLDS, max(2, np.median(counts))))
    generator = np.random.default_rng(seed)
    folds: list[list[int]] = [[] for _ in range(count)]
    turn = 0
    for label in np.flatnonzero(counts > 1):
        members = generator.permutation(np.flatnonzero(class_index == label))
        for row in members:
            folds[turn % count].append(int(row))
            turn += 1
    return [np.sort(np.array(rows, dtype=np.int64)) for rows in folds if rows]


def _search(
    x: Shaped[np.ndarray, "examples dim"],
    dense: Int[np.ndarray, " examples"],
    folds: Sequence[Int[np.ndarray, " _"]],
    cs: Sequence[float],
) -> dict[float, float]:
    """Return the log loss over all folds of each strength."""
    sums = dict.fromkeys(cs, 0.0)
    rows = 0
    for held_out in folds:
        train = np.setdiff1d(np.arange(len(x)), held_out)
        # A fold may hold out all images of a class: its scores are those of the rest.
        known, labels = np.unique(dense[train], return_inverse=True)
        asked = held_out[np.isin(dense[held_out], known)]
        if len(known) < 2 or not len(asked):
            continue
        rows += len(asked)
        at = np.searchsorted(known, dense[asked])
        for c, fitted in zip(cs, _fit(x[train], labels, cs), strict=True):
            sums[c] += log_loss(fitted, x[asked], at) * len(asked)
    return {c: total / max(rows, 1) for c, total in sums.items()}


def _fit(
    x: Shaped[np.ndarray, "examples dim"],
    labels: Int[np.ndarray, " examples"],
    cs: Sequence[float],
    tolerance: float = TOLERANCE,
) -> list[LinearFit]:
    """Fit once for each C, which must rise: each starts from the one before."""
    solver = LinearSolver(name="torch", tolerance=tolerance)
    return fit(x.astype(np.float32), labels, [1 / (c * len(x)) for c in cs], solver)


def _fold_into_head(
    fitted: LinearFit,
) -> tuple[Float[np.ndarray, "classes dim"], Float[np.ndarray, " classes"]]:
    """Return weights and biases for features that are not standardised."""
    weight, bias = fitted.weight, fitted.bias
    if weight.shape[1] == 1:  # two classes share a column
        weight = np.concatenate([-weight / 2, weight / 2], axis=1)
        bias = np.concatenate([-bias / 2, bias / 2])
    scaled = weight / fitted.standardizer.scale[:, None]
    return scaled.T, bias - fitted.standardizer.mean @ scaled


def _powers(low: float, high: float) -> list[float]:
    count = round((high - low) / STEP) + 1
    return [10 ** (low + STEP * at) for at in range(count)]
