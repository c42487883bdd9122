"""Numbers of a table's columns as targets: read from the cells, stacked for a batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitral.data import Dataset, Example, Targets
from vitral.data.targets import blend_with_previous
from vitral.errors import DataError
from vitral.tasks.regression.labels import stack_values


class NumberTarget(NamedTuple):
    """Numbers of a batch's examples; the first axis is the batch."""

    values: Float[Tensor, "batch columns"]
    """float32, which every device has; 0 where a value is missing."""
    rest: Float[Tensor, "batch columns"]
    """Rest that float32 leaves of a value: a year in seconds has more digits."""
    present: Bool[Tensor, "batch columns"]
    """False where a value is missing."""

    def to_numpy(self) -> Float[np.ndarray, "batch columns"]:
        """Return the numbers in float64; NaN where one is missing."""
        values = self.values.double() + self.rest.double()
        return values.masked_fill(~self.present, math.nan).cpu().numpy()


@dataclass(frozen=True)
class NumberTargets(Targets):
    """Make a `NumberTarget` of tuples of numbers, None where one is missing."""

    columns: tuple[str, ...]

    def stack(
        self,
        names: tuple[str, ...],
        examples: Sequence[Example],
        values: Sequence[Any],
    ) -> NumberTarget:
        """Return the numbers of a batch, of columns in the order of `columns`."""
        rows = np.array(values, dtype=np.float64).reshape(-1, len(self.columns))
        exact = torch.from_numpy(rows)
        present = ~exact.isnan()
        exact = exact.nan_to_num()
        short = exact.float()
        return NumberTarget(short, (exact - short.double()).float(), present)

    def blend(self, target: NumberTarget, weight: float) -> NumberTarget:
        """Blend the numbers; a value is missing where one of the two is."""
        if weight == 1:
            return target
        return NumberTarget(
            blend_with_previous(target.values, weight),
            blend_with_previous(target.rest, weight),
            target.present & target.present.roll(1, 0),
        )


def read_numbers(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """Return the data set with the numbers of its columns as targets.

    Raises:
        DataError: a cell holds no number, or no cell holds one.
    """
    examples = tuple(
        replace(example, target=_read_row(example, names))
        for example in dataset.examples
    )
    if not np.isfinite(stack_values(examples, len(names))).any():
        raise DataError(
            f"{dataset.root}: no row has a value of {', '.join(names)}. Fill the "
            "cells, or name another column with `target`."
        )
    return replace(dataset, examples=examples, targets=NumberTargets(names))


def _read_row(example: Example, names: tuple[str, ...]) -> tuple[float | None, ...]:
    return tuple(
        _read_cell(cell, name, example)
        for name, cell in zip(names, example.columns, strict=True)
    )


def _read_cell(cell: Any, name: str, example: Example) -> float | None:
    """Return the number of a cell; None for an empty one or null."""
    text = cell.strip() if isinstance(cell, str) else cell
    if text is None or text == "":
        return None
    try:
        if isinstance(text, bool) or not isinstance(text, int | float | str):
            raise ValueError
        number = float(text)
    except (ValueError, OverflowError):
        raise DataError(
            f"{_place(example)}, column {name!r}: expected a number with a decimal "
            f"point, got {cell!r}. Correct it, or leave the cell empty for a missing "
            "value; a column of words is for `task=classification`."
        ) from None
    if not math.isfinite(number):
        raise DataError(
            f"{_place(example)}, column {name!r}: {cell!r} is not finite. Correct it, "
            "or leave the cell empty for a missing value."
        )
    return number


def _place(example: Example) -> str:
    line = f", line {example.location[0]}" if example.location else ""
    return f"{example.id}{line}"
