"""Answers of a regression model: a number a column, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitral.tasks.answer import Answer
from vitral.tasks.base import AnswerContext
from vitral.tasks.regression.labels import number_labels

FIELDS = ("value", "low", "high")
HALF_WIDTH = "interval_half_width"
"""Key of the half widths that are stored with a model, a number or null a column."""


@dataclass(frozen=True, slots=True)
class NumberAnswer(Answer):
    """Numbers of one image."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    half_widths: tuple[float | None, ...]
    """Of each column's 90 % interval; None where val was too small for one."""

    def row(self) -> dict[str, Any]:
        """Return value, low and high; of several columns `NAME.value` and so on."""
        row: dict[str, Any] = {}
        columns = zip(self.names, self.values, self.half_widths, strict=True)
        for name, value, half in columns:
            low, high = (None, None) if half is None else (value - half, value + half)
            keys = field_names(name, self.names)
            row |= zip(keys, (value, low, high), strict=True)
        return row


def field_names(
    name: str, names: Sequence[str], fields: Sequence[str] = FIELDS
) -> list[str]:
    """Return the keys of a column: plain where it is the only one."""
    return [field if len(names) == 1 else f"{name}.{field}" for field in fields]


def decode(outputs: Tensor, context: AnswerContext) -> list[NumberAnswer]:
    """Return the numbers of each image in the units of the table."""
    labels = number_labels(context.labels)
    half_widths = tuple(context.metadata.get(HALF_WIDTH) or [None] * len(labels.names))
    return [
        NumberAnswer(labels.names, tuple(row), half_widths)
        for row in labels.restore(outputs.numpy()).tolist()
    ]
