"""Answers of a regression model: a number a column, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitral.errors import WeightsError
from vitral.json_file import shorten
from vitral.tasks.answer import Answer
from vitral.tasks.base import AnswerContext
from vitral.tasks.regression.labels import MAX_NUMBER, number_labels

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


def read_half_widths(
    metadata: Mapping[str, Any], num_columns: int
) -> tuple[float | None, ...]:
    """Return the half width of each column's interval; None where none was fitted.

    Raises:
        WeightsError: they are no half widths, or not one a column.
    """
    values = metadata.get(HALF_WIDTH)
    if values is None:
        return (None,) * num_columns
    if (
        not isinstance(values, list | tuple)
        or len(values) != num_columns
        or not all(
            value is None or (type(value) in (int, float) and 0 <= value <= MAX_NUMBER)
            for value in values
        )
    ):
        raise WeightsError(
            f"The model's `{HALF_WIDTH}` is {shorten(values)}, expected {num_columns} "
            "numbers of 0 or more, or null: its config.json was edited. Copy it from "
            "where the model was made, or remove the key."
        )
    return tuple(None if value is None else float(value) for value in values)


def decode(outputs: Tensor, context: AnswerContext) -> list[NumberAnswer]:
    """Return the numbers of each image in the units of the table."""
    labels = number_labels(context.labels)
    half_widths = read_half_widths(context.metadata, len(labels.names))
    return [
        NumberAnswer(labels.names, tuple(row), half_widths)
        for row in labels.restore(outputs.numpy()).tolist()
    ]
