"""Result of a classifier's evaluation: dataclasses and their JSON form."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from vitral.evaluation.intervals import Interval
from vitral.evaluation.stored import StoredResult
from vitral.tasks.classification.calibration import Bin, CalibratedMetrics


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """Metrics of one class."""

    name: str
    support: int
    """Examples with this label, undecodable ones included."""
    unreadable: int
    """Undecodable examples of this label."""
    predicted: int
    """Examples with this class as the answer."""
    recall: float | None
    """None when the support is 0."""
    recall_interval: Interval
    precision: float | None
    """None when the class was never answered."""
    f1: float | None
    """None when the class is neither a label nor an answer."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Non-zero cell of the confusion matrix; `true` and `predicted` are indices."""

    true: int
    predicted: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Classification(StoredResult):
    """Result of one model on one split; shares are in 0..1, intervals 95 %."""

    KIND = "classification"

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
    """Share of the most frequent class: the accuracy of always answering it."""
    majority_class: str
    per_class: tuple[ClassRow, ...]
    confusion: tuple[Confusion, ...]
    reliability: tuple[Bin, ...]
    calibrated: CalibratedMetrics | None = None
    """Metrics with a temperature that was fitted on val; None without one."""

    def confusion_matrix(self) -> Int[np.ndarray, "classes classes"]:
        """Return counts of decoded examples at [true, predicted]."""
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        for cell in self.confusion:
            matrix[cell.true, cell.predicted] = cell.count
        return matrix

    def scalars(self) -> dict[str, float | int]:
        """Return the scalar metrics that are not None."""
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
