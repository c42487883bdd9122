"""Linear probe of frozen features: L2-regularised logistic regression.

The loss is the mean cross-entropy plus l2 / 2 times the squared weights, without the
bias. As a mean, a strength chosen on a part of the images fits all of them too.
Features are whitened by the training images. Heads trained by gradient steps: see the
recipes.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from vitral.errors import ConfigError, DataError
from vitral.evaluation.probes.probe import (
    Probe,
    Standardizer,
    Table,
    make_result,
    row_slices,
    validate,
)

LINEAR_L2 = tuple(10.0**power for power in range(2, -7, -1))
"""Strengths to choose from, strongest first: each fit starts from the previous one."""
LARGE = 20_000_000
"""Number of values (images x features) above which "auto" takes torch: it uses all
threads and float32, where scikit-learn's solver needs float64."""
MAX_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class LinearSolver:
    """Optimizer of the regression."""

    name: Literal["auto", "sklearn", "torch"] = "auto"
    """"auto" takes scikit-learn's up to `LARGE` numbers, else torch's."""
    tolerance: float = 1e-6
    """Largest slope at which a fit counts as finished. `settings` says whether all did
    within 1000 steps, as "converged"."""

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ConfigError(f"tolerance must be above 0: got {self.tolerance}.")


@dataclass(frozen=True, slots=True)
class LinearFit:
    """A fitted regression; two classes share one column, as in scikit-learn."""

    standardizer: Standardizer
    weight: Float[np.ndarray, "dim columns"]
    bias: Float[np.ndarray, " columns"]
    converged: bool

    def scores(
        self, x: Shaped[np.ndarray, "examples dim"]
    ) -> Float[np.ndarray, "examples classes"]:
        """Return the logits of every class."""
        logits = self.standardizer(x) @ self.weight + self.bias
        if logits.shape[1] > 1:
            return logits
        return np.concatenate([np.zeros_like(logits), logits], axis=1)


def linear(
    x: Table,
    y: Table,
    x_test: Table,
    y_test: Table,
    *,
    l2: Sequence[float] = LINEAR_L2,
    dev: float = 0.2,
    seed: int = 0,
    solver: LinearSolver = LinearSolver(),
) -> Probe:
    """Return the test accuracy of a logistic regression on the training features.

    The strength is the one with the highest accuracy on a dev part of the training
    images (of equals the lower loss); the measured fit is of all of them. The test set
    chooses nothing.

    Args:
        x, y, x_test, y_test: features and labels, as for `fewshot`.
        l2: strengths to choose from, each above 0; a single one needs no dev part.
        dev: share of each class's training images that chooses the strength. A class
            with one image has none there.
        seed: of the dev part.
        solver: optimizer and its tolerance.

    Raises:
        ConfigError: `l2` or `dev` is outside its range.
        DataError: the arrays do not fit each other, a feature is not finite, or no
            class has an image to spare for the dev part.
    """
    started = time.perf_counter()
    _check_settings(l2, dev)
    sets = validate(x, y, x_test, y_test)
    if solver.name == "auto":
        name: Literal["sklearn", "torch"] = (
            "torch" if sets.x.size > LARGE else "sklearn"
        )
        solver = replace(solver, name=name)
    tried: list[dict[str, float]] = []
    converged = True
    if len(l2) > 1:
        dev_index = dev_rows(sets.class_index, dev, seed)
        train_index = np.setdiff1d(np.arange(len(sets.x)), dev_index)
        strongest_first = sorted(set(l2), reverse=True)
        fits = fit(
            sets.x[train_index],
            sets.class_index[train_index],
            strongest_first,
            solver,
        )
        for strength, fitted in zip(strongest_first, fits, strict=True):
            accuracy, loss = _evaluate(
                fitted, sets.x[dev_index], sets.class_index[dev_index]
            )
            tried.append({"l2": strength, "accuracy": accuracy, "loss": loss})
        converged = all(fitted.converged for fitted in fits)
        chosen = max(tried, key=lambda row: (row["accuracy"], -row["loss"]))["l2"]
    else:
        chosen = l2[0]
    last = fit(sets.x, sets.class_index, [chosen], solver)[0]
    settings: dict[str, Any] = {
        "l2": float(chosen),
        "images": len(sets.x),
        "solver": solver.name,
        "converged": converged and last.converged,
    }
    if tried:
        settings |= {"dev": dev, "seed": seed, "dev_images": len(dev_index)}
        settings["tried"] = tried
    return make_result(
        "linear",
        sets,
        lambda rows: last.scores(rows).argmax(axis=1),
        settings,
        started=started,
    )


def fit(
    x: Shaped[np.ndarray, "examples dim"],
    class_index: Int[np.ndarray, " examples"],
    l2s: Sequence[float],
    solver: LinearSolver,
) -> list[LinearFit]:
    """Fit once for each strength; `class_index` holds every class from 0 on."""
    fit_with = _fit_sklearn if solver.name == "sklearn" else _fit_torch
    return fit_with(x, class_index, l2s, solver.tolerance)


def log_loss(
    fitted: LinearFit,
    x: Shaped[np.ndarray, "examples dim"],
    class_index: Int[np.ndarray, " examples"],
) -> float:
    """Return the mean cross-entropy in nats."""
    return _evaluate(fitted, x, class_index)[1]


def dev_rows(
    class_index: Int[np.ndarray, " examples"], share: float, seed: int
) -> Int[np.ndarray, " dev"]:
    """Return the rows of a random `share` of each class; one image of each is left."""
    generator = np.random.default_rng(seed)
    dev_parts = []
    for label in np.unique(class_index):
        members = generator.permutation(np.flatnonzero(class_index == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        dev_parts.append(members[:count])
    rows = np.sort(np.concatenate(dev_parts))
    if len(rows) == 0:
        raise DataError(
            "every class of y has a single image: none is left to choose the strength "
            "with. Pass one strength, as l2=(0.01,), or add images."
        )
    return rows


def _fit_sklearn(
    x: Shaped[np.ndarray, "examples dim"],
    class_index: Int[np.ndarray, " examples"],
    l2s: Sequence[float],
    tolerance: float,
) -> list[LinearFit]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    standardizer = Standardizer.fit(x)
    white = standardizer(x)
    model = LogisticRegression(tol=tolerance, max_iter=MAX_STEPS, warm_start=True)
    fits = []
    for l2 in l2s:
        model.set_params(C=1 / (l2 * len(x)))
        # Recorded in the result; a warning would be lost among the lines of a study.
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(white, class_index)
        early = any(issubclass(w.category, ConvergenceWarning) for w in raised)
        fits.append(
            LinearFit(
                standardizer, model.coef_.T.copy(), model.intercept_.copy(), not early
            )
        )
    return fits


def _fit_torch(
    x: Shaped[np.ndarray, "examples dim"],
    class_index: Int[np.ndarray, " examples"],
    l2s: Sequence[float],
    tolerance: float,
) -> list[LinearFit]:
    import torch

    standardizer = Standardizer.fit(x)
    double = x.dtype == np.float64
    dtype: np.dtype[Any] = np.dtype(np.float64 if double else np.float32)
    white = torch.from_numpy(_standardize(x, standardizer, dtype))
    target = torch.from_numpy(class_index)
    classes = int(class_index.max()) + 1
    columns = 1 if classes == 2 else classes
    weight = white.new_zeros(white.shape[1], columns, requires_grad=True)
    bias = white.new_zeros(columns, requires_grad=True)

    def compute_loss(l2: float) -> torch.Tensor:
        logits = white @ weight + bias
        if columns == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        entropy = torch.nn.functional.cross_entropy(logits, target)
        return entropy + l2 / 2 * weight.square().sum()

    fits = []
    for l2 in l2s:
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=MAX_STEPS,
            # A line search takes several; torch's own limit would come before ours.
            max_eval=10 * MAX_STEPS,
            tolerance_grad=tolerance,
            tolerance_change=2.2e-16 if double else 1.2e-7,
            line_search_fn="strong_wolfe",
        )

        def closure(solver: torch.optim.LBFGS = solver, l2: float = l2) -> float:
            solver.zero_grad()
            loss = compute_loss(l2)
            loss.backward()
            return float(loss.detach())

        solver.step(closure)
        state = solver.state[weight]
        early = state["n_iter"] >= MAX_STEPS or state["func_evals"] >= 10 * MAX_STEPS
        parts = [part.detach().double().numpy().copy() for part in (weight, bias)]
        fits.append(LinearFit(standardizer, parts[0], parts[1], not early))
    return fits


def _standardize(
    x: Shaped[np.ndarray, "examples dim"],
    standardizer: Standardizer,
    dtype: np.dtype[Any],
) -> Float[np.ndarray, "examples dim"]:
    """Standardise in slices, to avoid a float64 copy of a large set."""
    out = np.empty(x.shape, dtype=dtype)
    for piece in row_slices(len(x)):
        out[piece] = standardizer(x[piece])
    return out


def _evaluate(
    fitted: LinearFit,
    x: Shaped[np.ndarray, "dev dim"],
    class_index: Int[np.ndarray, " dev"],
) -> tuple[float, float]:
    """Return accuracy, and mean cross-entropy in nats."""
    from scipy.special import logsumexp

    right, loss = 0, 0.0
    for piece in row_slices(len(x)):
        scores, labels = fitted.scores(x[piece]), class_index[piece]
        right += int((scores.argmax(axis=1) == labels).sum())
        loss += float(
            (logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]).sum()
        )
    return right / len(x), loss / len(x)


def _check_settings(l2: Sequence[float], dev: float) -> None:
    if not l2 or min(l2) <= 0:
        raise ConfigError(
            f"l2 must hold at least one strength, each above 0: got {list(l2)}."
        )
    if not 0 < dev < 1:
        raise ConfigError(
            f"dev must lie strictly between 0 and 1: got {dev}. It is the share of the "
            "training images that chooses the strength; 0.2 is usual."
        )
