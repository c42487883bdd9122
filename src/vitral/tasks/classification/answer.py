"""Answers of a classifier: probabilities, and the most probable classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitral.data.names import join_names
from vitral.errors import WeightsError
from vitral.json_file import shorten
from vitral.tasks.answer import Answer
from vitral.tasks.base import AnswerContext
from vitral.tasks.classification.labels import ClassLabels
from vitral.tasks.classification.single_label import softmax


@dataclass(frozen=True, slots=True)
class ClassPrediction(Answer):
    """Prediction of a model for one image."""

    label: str
    """The most probable class; several, joined by `;`, for a multi-label model."""
    confidence: float
    probabilities: dict[str, float]
    """Probability of each class, or of the most probable ones, the highest first."""
    explained_output: int = field(default=0, compare=False)
    """Index of the most probable class."""

    def row(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
        }


TEMPERATURES = (1e-3, 1e3)
"""Smallest and largest divisor of logits; fits stay within 1/100 and 100."""


def to_probabilities(
    logits: Float[Tensor, "batch classes"], labels: ClassLabels, temperature: float
) -> Float[np.ndarray, "batch classes"]:
    """Return the probabilities of logits, calibrated by a temperature."""
    if labels.multi_label:
        return logits.sigmoid().numpy()
    return softmax(logits.numpy() / temperature)


def average_logits(
    outputs: Sequence[Float[Tensor, "batch classes"]], labels: ClassLabels
) -> Float[Tensor, "batch classes"]:
    """Return the log of the mean probabilities of several views."""
    if labels.multi_label:
        mean = torch.stack([output.sigmoid() for output in outputs]).mean(0)
        return torch.logit(mean.clamp(1e-7, 1 - 1e-7))
    logs = torch.stack([output.log_softmax(-1) for output in outputs])
    return logs.logsumexp(0) - float(np.log(len(outputs)))


def read_temperature(metadata: Mapping[str, Any], labels: ClassLabels) -> float:
    """Return the divisor of the logits before the softmax; 1 if none was fitted.

    Raises:
        WeightsError: it is no temperature: a negative one would reverse the order.
    """
    value = metadata.get("temperature", 1.0)
    low, high = TEMPERATURES
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
    ):
        raise WeightsError(
            f"The model's `temperature` is {shorten(value)}, expected a number from "
            f"{low:g} to {high:g}: its config.json or predictions/val.json was edited. "
            "Copy it from where the model was made, or remove the key."
        )
    return 1.0 if labels.multi_label else float(value)


def decode(
    logits: Float[Tensor, "batch classes"], context: AnswerContext
) -> list[ClassPrediction]:
    """Return the prediction of each image, with the `context.top` highest classes."""
    labels = context.labels
    assert isinstance(labels, ClassLabels)
    table = to_probabilities(logits, labels, read_temperature(context.metadata, labels))
    names = labels.names or tuple(str(i) for i in range(table.shape[1]))
    return [_predict(row, names, labels, context.top) for row in table]


def _predict(
    row: Float[np.ndarray, " classes"],
    names: Sequence[str],
    labels: ClassLabels,
    top: int | None,
) -> ClassPrediction:
    order = (-row).argsort(kind="stable")
    listed = range(len(row)) if top is None else order[:top]
    best = int(row.argmax())
    return ClassPrediction(
        label=_label(row, names, labels, best),
        confidence=float(row[best]),
        probabilities={names[i]: float(row[i]) for i in listed},
        explained_output=best,
    )


def _label(
    row: Float[np.ndarray, " classes"],
    names: Sequence[str],
    labels: ClassLabels,
    best: int,
) -> str:
    """Return the most probable class of a row; for multi-label all from 0.5 on."""
    if labels.multi_label:
        return join_names(n for n, p in zip(names, row, strict=True) if p >= 0.5)
    return names[best]
