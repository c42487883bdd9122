"""Multi-label metrics: average precision, F1 and exact match, by scikit-learn.

A file that could not be decoded scores 0 for every label and is never an exact match.
Thresholds per label are not implemented.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from vitral.errors import DataError
from vitral.evaluation.intervals import Interval, wilson
from vitral.tasks.result import Headline, Result


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """Metrics of one label."""

    name: str
    support: int
    """Examples that have the label."""
    average_precision: float | None
    """Area under precision over recall; None when no example has the label."""
    f1: float | None
    """F1 at the threshold; None when no example has the label or is given it."""


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Result):
    """Result of one multi-label model on one split; shares in 0..1."""

    KIND = "multilabel"
    TITLE = "multi-label"

    classes: tuple[str, ...]
    n: int
    n_unreadable: int
    threshold: float
    """A score at or above it gives the label."""
    mean_average_precision: float
    """Mean over the labels that some example has."""
    micro_f1: float
    macro_f1: float
    """Mean over all labels; one that is neither carried nor given counts 0."""
    exact_match: float
    exact_match_interval: Interval
    per_class: tuple[LabelRow, ...]

    def scalars(self) -> dict[str, float | int]:
        """Return the scalar metrics."""
        return {
            "n": self.n,
            "n_unreadable": self.n_unreadable,
            "mean_average_precision": self.mean_average_precision,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "exact_match": self.exact_match,
        }

    def headline(self) -> Headline:
        """Return the share of images with every label right."""
        return Headline(
            field="exact_match",
            name="every label right",
            value=self.exact_match,
            interval=self.exact_match_interval,
        )

    monitors: ClassVar[tuple[str, ...]] = ("accuracy", "exact_match")

    def monitor_values(self) -> dict[str, float]:
        """Return the mean average precision as accuracy, and the exact matches."""
        return {
            "accuracy": self.mean_average_precision,
            "exact_match": self.exact_match,
        }

    def sentence(self, noun: str) -> str:
        """Return the mean average precision."""
        return (
            f"mean average precision {100 * self.mean_average_precision:.1f} % on "
            f"{self.n} {noun}"
        )


def multilabel(
    scores: Float[np.ndarray, "examples classes"],
    targets: Int[np.ndarray, "examples classes"],
    class_names: Sequence[str],
    *,
    unreadable: Int[np.ndarray, "lost classes"] | None = None,
    threshold: float = 0.5,
) -> MultiLabel:
    """Measure a multi-label model.

    Args:
        scores: a probability for each label (after the sigmoid).
        targets: 1 where the example has the label, else 0.
        class_names: in the order of the scores.
        unreadable: targets of the files that could not be decoded.
        threshold: a score at or above it gives the label.

    Raises:
        DataError: nothing to measure, no example has a label, a score outside 0..1, or
            another number of columns than class names.
    """
    from sklearn.metrics import f1_score

    _check(scores, class_names)
    lost = np.zeros((0, targets.shape[1]), int) if unreadable is None else unreadable
    truth = np.concatenate([targets, lost])
    score = np.concatenate([scores.astype(np.float64), np.zeros(lost.shape)])
    if not truth.any():
        raise DataError("no example carries any label: average precision needs one.")
    given = (score >= threshold).astype(np.int64)
    given[len(targets) :] = 0
    rows = tuple(
        _label_row(name, truth[:, i], score[:, i], given[:, i])
        for i, name in enumerate(class_names)
    )
    exact = int((given == truth)[: len(targets)].all(axis=1).sum())
    precisions = [
        row.average_precision for row in rows if row.average_precision is not None
    ]
    return MultiLabel(
        classes=tuple(class_names),
        n=len(truth),
        n_unreadable=len(lost),
        threshold=threshold,
        mean_average_precision=sum(precisions) / len(precisions),
        micro_f1=float(f1_score(truth, given, average="micro", zero_division=0)),
        macro_f1=float(f1_score(truth, given, average="macro", zero_division=0)),
        exact_match=exact / len(truth),
        exact_match_interval=wilson(exact, len(truth)),
        per_class=rows,
    )


def _label_row(
    name: str,
    truth: Int[np.ndarray, " examples"],
    score: Float[np.ndarray, " examples"],
    given: Int[np.ndarray, " examples"],
) -> LabelRow:
    from sklearn.metrics import average_precision_score, f1_score

    support = int(truth.sum())
    return LabelRow(
        name=name,
        support=support,
        average_precision=(
            float(average_precision_score(truth, score)) if support else None
        ),
        f1=(
            float(f1_score(truth, given, zero_division=0))
            if support or given.any()
            else None
        ),
    )


def _check(
    scores: Float[np.ndarray, "examples classes"], class_names: Sequence[str]
) -> None:
    if scores.shape[1] != len(class_names):
        raise DataError(
            f"scores and class names differ: got {scores.shape[1]} columns and "
            f"{len(class_names)} names. Use the class names of the same model."
        )
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise DataError(
            f"a score must lie in 0..1: got {scores.min():g} to {scores.max():g}. "
            "Apply the sigmoid first."
        )
