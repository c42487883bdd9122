"""What a classifier's evaluation holds: the dataclasses and their JSON form.

The numbers are made in classify.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from vitral.config_io import result_from_dict, result_to_dict
from vitral.evaluation.calibration import Bin, CalibratedMetrics
from vitral.evaluation.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of a result."""

    name: str
    support: int
    """Examples with this label, undecodable ones included."""
    unreadable: int
    """Those of them that could not be decoded."""
    predicted: int
    """Examples that got this class as the answer."""
    recall: float | None
    """None when the support is 0."""
    recall_interval: Interval
    precision: float | None
    """None when the class was never answered."""
    f1: float | None
    """None when the class is neither a label nor an answer."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One non-zero cell of the confusion matrix; `true` and `predicted` are indices."""

    true: int
    predicted: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The result of one model on one split; shares are in 0..1, intervals 95 %."""

    classes: tuple[str, ...]
    n: int
    """All examples, undecodable ones included."""
    n_unreadable: int
    top1: float
    top1_interval: Interval
    top5: float | None
    """None with five classes or fewer."""
    top5_interval: Interval | None
    macro_f1: float
    """Mean F1 of the classes that are a label or an answer of some example."""
    macro_f1_interval: Interval | None
    balanced_accuracy: float
    """Mean recall of the classes that have an example."""
    balanced_accuracy_interval: Interval | None
    nll: float | None
    """Mean negative log-likelihood in nats; None when nothing could be decoded."""
    ece: float | None
    """Expected calibration error, 15 bins; None when nothing could be decoded."""
    majority: float
    """Share of the most frequent class: what always answering it would reach."""
    majority_class: str
    per_class: tuple[ClassRow, ...]
    confusion: tuple[Confusion, ...]
    reliability: tuple[Bin, ...]
    calibrated: CalibratedMetrics | None = None
    """With a temperature that was fitted on val; None where there is none."""

    def confusion_matrix(self) -> Int[np.ndarray, "classes classes"]:
        """Counts of decoded examples at [true, predicted]."""
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        for cell in self.confusion:
            matrix[cell.true, cell.predicted] = cell.count
        return matrix

    def scalars(self) -> dict[str, float | int]:
        """The single numbers, for a line of metrics; what is None is left out."""
        values: dict[str, float | int | None] = {
            "n": self.n,
            "n_unreadable": self.n_unreadable,
            "top1": self.top1,
            "top1_low": self.top1_interval.low,
            "top1_high": self.top1_interval.high,
            "top5": self.top5,
            "macro_f1": self.macro_f1,
            "balanced_accuracy": self.balanced_accuracy,
            "nll": self.nll,
            "ece": self.ece,
            "majority": self.majority,
        }
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: finite numbers, text, lists, None; `kind` says which."""
        return result_to_dict("classification", self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Classification":
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a field is missing or has another type.
        """
        return result_from_dict(cls, value, "classification")
