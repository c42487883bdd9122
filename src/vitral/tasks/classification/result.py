"""Result of a classifier's evaluation: dataclasses and their JSON form."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from vitral.evaluation.intervals import Interval
from vitral.tasks.classification.calibration import Bin, CalibratedMetrics
from vitral.tasks.result import FEW_IMAGES, Headline, Result


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
class Classification(Result):
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

    def headline(self) -> Headline:
        """Return the accuracy."""
        return Headline(
            field="top1",
            name="right",
            value=self.top1,
            interval=self.top1_interval,
        )

    monitors: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "macro_f1")

    def monitor_values(self) -> dict[str, float]:
        """Return loss, accuracy and macro-F1."""
        return {
            "loss": self.nll or 0.0,
            "accuracy": self.top1,
            "macro_f1": self.macro_f1,
        }

    def sentence(self, noun: str) -> str:
        """Return the accuracy with its interval, beside the most frequent class."""
        return (
            f"{_percent(self.top1)} of {self.n} {noun} right (95 % interval "
            f"{_percent(self.top1_interval.low)} to "
            f"{_percent(self.top1_interval.high)}; always answering "
            f"{self.majority_class} {_percent(self.majority)})"
        )

    def lines(self, split: str) -> list[str]:
        """Return a line a class, and one on the temperature."""
        return [*self._class_lines(), *self._calibration_lines(split)]

    def calibration(self) -> dict[str, Any]:
        """Return the temperature."""
        if self.calibrated is None:
            return {}
        return {"temperature": self.calibrated.temperature}

    def _class_lines(self) -> list[str]:
        lines = [
            f"  {'class':20} {'images':>7} {'recall':>8}   95 % interval  precision"
        ]
        for row in self.per_class:
            recall = "-" if row.recall is None else f"{100 * row.recall:.1f} %"
            precision = "-" if row.precision is None else f"{100 * row.precision:.1f} %"
            low, high = row.recall_interval
            interval = f"{100 * low:5.1f} to {100 * high:5.1f}"
            lines.append(
                f"  {row.name[:20]:20} {row.support:7} {recall:>8}   {interval:>14}"
                f"  {precision:>9}"
            )
        return lines

    def fitted_lines(self) -> list[str]:
        """Return a line on the temperature, and on few images behind it."""
        if self.calibrated is None:
            return []
        return [f"{_temperature(self.calibrated)}{_evidence(self.calibrated)}"]

    def _calibration_lines(self, split: str) -> list[str]:
        metrics = self.calibrated
        if metrics is None:
            return []
        same = ", the same images" if metrics.fitted_on == split else ""
        return [
            f"{_temperature(metrics)}{same}: calibration error {self.ece or 0.0:.3f} "
            f"without, {metrics.ece:.3f} with it{_evidence(metrics)}"
        ]


def _temperature(metrics: CalibratedMetrics) -> str:
    return (
        f"temperature {metrics.temperature:.2f}, fitted on {metrics.fitted_n:,} "
        f"images of {metrics.fitted_on}"
    )


def _evidence(metrics: CalibratedMetrics) -> str:
    """Return how far the images of the fit carry it; empty for a usual fit."""
    if metrics.temperature == 1:
        return "; they do not show that confidences are too high or too low"
    if metrics.fitted_n < FEW_IMAGES:
        return "; they are few, so it is shrunk towards 1"
    return ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
