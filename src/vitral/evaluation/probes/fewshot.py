"""Few-shot accuracy of frozen features: least squares on a few images of each class.

Dosovitskiy et al. (arXiv 2010.11929, section 4.1): closed-form ridge regression to
targets of -1 and 1. Details that the paper leaves open (strength, bias, whitening)
follow big_vision's evaluators/fewshot_lsr.py, which averages seeds 0, 1 and 2 and takes
1, 5, 10 or 25 shots; one call here is one seed and one number of shots.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from vitral.errors import ConfigError, DataError
from vitral.evaluation.probes.probe import (
    Probe,
    Standardizer,
    Table,
    make_result,
    validate,
)

FEWSHOT_L2 = 2.0**10
"""Strength that big_vision uses for every number of shots."""
FEWSHOT_L2_GRID = tuple(2.0**power for power in range(-10, 20))
"""Strengths that its older form, in scenic, chose from with `choose_l2`."""
BIAS_FEATURE = 100.0
"""So large that the bias weight is hardly shrunk."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """Ridge regression, decomposed once and solved for any strength."""

    left: Float[np.ndarray, "dim rank"]
    eigenvalues: Float[np.ndarray, " rank"]
    right: Float[np.ndarray, "rank targets"]

    @classmethod
    def decompose(
        cls,
        x: Float[np.ndarray, "examples dim"],
        y: Float[np.ndarray, "examples targets"],
    ) -> "Ridge":
        """Decompose X^T X, or X X^T when there are fewer examples than features."""
        if x.shape[0] >= x.shape[1]:
            eigenvalues, vectors = np.linalg.eigh(x.T @ x)
            return cls(vectors, eigenvalues, vectors.T @ (x.T @ y))
        eigenvalues, vectors = np.linalg.eigh(x @ x.T)
        return cls(x.T @ vectors, eigenvalues, vectors.T @ y)

    def solve(self, l2: float) -> Float[np.ndarray, "dim targets"]:
        """Return the W of the smallest |XW - Y|^2 + l2 |W|^2."""
        return self.left @ (self.right / (self.eigenvalues + l2)[:, None])


def fewshot(
    x: Table,
    y: Table,
    x_test: Table,
    y_test: Table,
    *,
    shots: int,
    seed: int = 0,
    l2: float = FEWSHOT_L2,
) -> Probe:
    """Return the test accuracy after learning from `shots` images of each class.

    Args:
        x: input features of the head, [train, dim]; an array or a tensor.
        y: class indices [train].
        x_test: features [test, dim].
        y_test: class indices [test], each also a label of `y`.
        shots: images of each class to learn from.
        seed: of their choice; fewer shots of the same seed are part of more.
        l2: strength of the regularisation, above 0.

    Raises:
        ConfigError: `shots` or `l2` is too small.
        DataError: the arrays do not fit each other, a feature is not finite, or a class
            has fewer images than `shots`.
    """
    return fewshot_sweep(x, y, x_test, y_test, shots=shots, seed=seed, l2s=(l2,))[0]


def fewshot_sweep(
    x: Table,
    y: Table,
    x_test: Table,
    y_test: Table,
    *,
    shots: int,
    seed: int = 0,
    l2s: Sequence[float] = FEWSHOT_L2_GRID,
) -> tuple[Probe, ...]:
    """Run `fewshot` for each strength, at the cost of one decomposition.

    The best of these accuracies is no result: the test images chose it. Choose with
    `choose_l2` on other data sets or on a validation split.

    Raises:
        ConfigError, DataError: as `fewshot`.
    """
    started = time.perf_counter()
    if not l2s or min(l2s) <= 0:
        raise ConfigError(
            f"l2 must be above 0: got {list(l2s)}. 1024 is the usual strength."
        )
    sets = validate(x, y, x_test, y_test)
    rows = draw_shots(sets.classes[sets.class_index], shots, seed)
    standardizer, ridge = fit_fewshot(sets.x[rows], sets.class_index[rows])
    settings = {"shots": shots, "seed": seed, "images": len(rows)}
    return tuple(
        make_result(
            "fewshot",
            sets,
            make_classifier(standardizer, ridge.solve(l2)),
            {**settings, "l2": float(l2)},
            started=started,
        )
        for l2 in l2s
    )


def draw_shots(
    y: Int[np.ndarray, " examples"], shots: int, seed: int
) -> Int[np.ndarray, " chosen"]:
    """Return the rows of `shots` random images of each class, class by class."""
    if shots < 1:
        raise ConfigError(f"shots must be at least 1: got {shots}.")
    classes, counts = np.unique(y, return_counts=True)
    few = np.flatnonzero(counts < shots)
    if len(few):
        raise DataError(
            f"class {classes[few[0]]} has {counts[few[0]]} images in y and {shots} "
            f"shots were asked for ({len(few)} of {len(classes)} classes have too "
            f"few). Ask for at most {counts.min()} shots, or add images."
        )
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [generator.permutation(np.flatnonzero(y == label))[:shots] for label in classes]
    )


def fit_fewshot(
    x: Shaped[np.ndarray, "examples dim"], class_index: Int[np.ndarray, " examples"]
) -> tuple[Standardizer, Ridge]:
    """Standardise, append a bias and decompose; every class from 0 on has a row."""
    standardizer = Standardizer.fit(x)
    white = append_bias(standardizer(x))
    return standardizer, Ridge.decompose(white, one_hot_targets(class_index))


def one_hot_targets(
    class_index: Int[np.ndarray, " examples"],
) -> Float[np.ndarray, "examples classes"]:
    """Return 1 for an example's class and -1 for the others; every class has a row."""
    return 2.0 * np.eye(int(class_index.max()) + 1)[class_index] - 1.0


def choose_l2(
    accuracies: Float[np.ndarray, "sets strengths"], l2s: Sequence[float]
) -> float:
    """Return the strength with the best mean rank over data sets; ties: the largest.

    Args:
        accuracies: of each data set (or split) at each of `l2s`, for instance of
            `fewshot_sweep`; never the one that is reported in the end.

    Raises:
        DataError: another number of columns than strengths, or no row.
    """
    from scipy.stats import rankdata

    if len(accuracies) == 0 or accuracies.shape[1] != len(l2s) or len(l2s) == 0:
        raise DataError(
            f"accuracies must be [data sets, {len(l2s)} strengths]: got the shape "
            f"{accuracies.shape}. Give one row a data set."
        )
    ranks = rankdata(accuracies, axis=1).mean(axis=0)
    return max(l2 for l2, rank in zip(l2s, ranks, strict=True) if rank == ranks.max())


def make_classifier(
    standardizer: Standardizer, weight: Float[np.ndarray, "features classes"]
) -> Callable[[Shaped[np.ndarray, "rows dim"]], Int[np.ndarray, " rows"]]:
    """Return the function from features to the class of the highest score."""
    return lambda x: (append_bias(standardizer(x)) @ weight).argmax(axis=1)


def append_bias(
    x: Float[np.ndarray, "examples dim"],
) -> Float[np.ndarray, "examples features"]:
    """Append the constant feature that carries the bias."""
    return np.column_stack([x, np.full(len(x), BIAS_FEATURE)])
