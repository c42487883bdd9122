"""Metric of a classifier: the logits of a split, and the result from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from vitral.data import BadFile, Batch
from vitral.tasks.classification.calibration import (
    CalibratedMetrics,
    calibrate,
    fit_temperature,
)
from vitral.tasks.classification.labels import ClassLabels
from vitral.tasks.classification.multi_label import MultiLabel, multilabel
from vitral.tasks.classification.predictions import write_predictions
from vitral.tasks.classification.result import Classification
from vitral.tasks.classification.single_label import classify
from vitral.tasks.result import Metric, Result


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits and targets of some examples, in order."""

    ids: tuple[str, ...]
    labels: Int[np.ndarray, " examples"]
    """Class index of each example."""
    targets: Float[np.ndarray, "examples classes"]
    """One-hot, soft or multi-hot targets."""
    logits: Float[np.ndarray, "examples classes"]


class ClassMetric(Metric):
    """Logits and targets of a split."""

    labels: ClassLabels

    def reduce(self, outputs: Tensor, batch: Batch) -> Predictions:
        return Predictions(
            batch.id,
            batch.target.label.numpy(),
            batch.target.shares.numpy(),
            outputs.numpy(),
        )

    def predictions(self) -> Predictions:
        """Return the parts of all batches as one."""
        parts = self.in_order()
        if not parts:
            empty = np.zeros((0, len(self.labels.names)), np.float32)
            return Predictions((), np.zeros(0, np.int64), empty, empty)
        return Predictions(
            tuple(name for part in parts for name in part.ids),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.logits for part in parts]),
        )

    def result(
        self, bad: Sequence[BadFile], *, split: str = "", val: Result | None = None
    ) -> Classification | MultiLabel:
        """Compute the metrics; files that cannot be read count as wrong answers."""
        predictions, names = self.predictions(), self.labels.names
        if self.labels.multi_label:
            return _measure_multi_label(predictions, names, bad)
        unreadable = [file.label[0] for file in bad]
        result = classify(
            predictions.logits, predictions.labels, names, unreadable=unreadable
        )
        return replace(result, calibrated=_calibrate(predictions, split, val))

    def write(
        self, folder: Path, name: str, result: Result, bad: Sequence[BadFile]
    ) -> None:
        """Write <name>.csv with a row an image, where images have one label."""
        if self.labels.multi_label:
            return
        predictions = self.predictions()
        write_predictions(
            folder / f"{name}.csv",
            predictions.ids,
            predictions.logits,
            predictions.labels,
            self.labels.names,
            unreadable=[(file.path, file.label[0]) for file in bad],
        )


def _measure_multi_label(
    predictions: Predictions, names: Sequence[str], bad: Sequence[BadFile]
) -> MultiLabel:
    probabilities = 1 / (1 + np.exp(-predictions.logits.astype(np.float64)))
    targets = (predictions.targets > 0).astype(np.int64)
    unreadable = np.zeros((len(bad), len(names)), dtype=np.int64)
    for row, file in zip(unreadable, bad, strict=True):
        row[list(file.label)] = 1
    return multilabel(probabilities, targets, names, unreadable=unreadable)


def _calibrate(
    predictions: Predictions, split: str, val: Result | None
) -> CalibratedMetrics | None:
    """Calibrate with the temperature of the run's val: fitted on val, else read."""
    if split == "val":
        wrong = predictions.logits.argmax(axis=1) != predictions.labels
        if not wrong.any():
            # Without an error the best temperature is the lowest allowed one.
            return None
        temperature = fit_temperature(predictions.logits, predictions.labels)
        fitted_n = len(predictions.ids)
    elif isinstance(val, Classification) and val.calibrated is not None:
        temperature, fitted_n = val.calibrated.temperature, val.calibrated.fitted_n
    else:
        return None  # measured by an older version, or without val
    return calibrate(
        predictions.logits,
        predictions.labels,
        temperature,
        fitted_on="val",
        fitted_n=fitted_n,
    )
