"""Metric of a regression model: numbers of a split, and the result from them."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vitral.atomic_io import write_atomic
from vitral.data import BadFile, Batch
from vitral.data.names import escape_cell
from vitral.errors import DataError, DivergedError
from vitral.evaluation import Interval, wilson
from vitral.tasks.labels import Labels
from vitral.tasks.regression.answer import FIELDS, field_names
from vitral.tasks.regression.labels import NumberLabels, number_labels
from vitral.tasks.regression.measures import (
    NAMES,
    ColumnMeasure,
    Measure,
    bootstrap_intervals,
    conformal_half_width,
    mean_measure,
)
from vitral.tasks.regression.result import NumberColumn, Regression
from vitral.tasks.result import Metric, Result

CELLS = ("target", *FIELDS, "error")
"""Columns of predictions/SPLIT.csv after the path; `error` is value - target."""


@dataclass(frozen=True, slots=True)
class NumberTable:
    """Numbers of some examples in order, float64, in the units of the table."""

    ids: tuple[str, ...]
    truth: Float[np.ndarray, "examples columns"]
    """NaN where a number is missing."""
    values: Float[np.ndarray, "examples columns"]


class NumberMetric(Metric):
    """Numbers and answers of a split."""

    labels: NumberLabels

    def __init__(self, labels: Labels) -> None:
        super().__init__(number_labels(labels))

    def reduce(self, outputs: Tensor, batch: Batch) -> NumberTable:
        values = self.labels.restore(outputs.numpy())
        return NumberTable(batch.id, batch.target.to_numpy(), values)

    def table(self) -> NumberTable:
        """Return the parts of all batches as one."""
        parts, empty = self.in_order(), np.zeros((0, len(self.labels.names)))
        return NumberTable(
            tuple(name for part in parts for name in part.ids),
            np.concatenate([empty, *(part.truth for part in parts)]),
            np.concatenate([empty, *(part.values for part in parts)]),
        )

    def result(
        self, bad: Sequence[BadFile], *, split: str = "", val: Result | None = None
    ) -> Regression:
        """Compute the metrics; an unreadable file has the answer of the baseline.

        Raises:
            DataError: there is no number to compare with.
            DivergedError: an answer is not finite.
        """
        table = self.table()
        half_widths: list[float | None] = [None] * len(self.labels.names)
        fitted_n: list[int | None] = [None] * len(half_widths)
        if split == "val":
            errors = [e[~np.isnan(e)] for e in (table.values - table.truth).T]
            half_widths = [conformal_half_width(e) for e in errors]
            fitted_n = [len(e) for e in errors]
        elif isinstance(val, Regression) and len(val.columns) == len(half_widths):
            half_widths = [column.interval_half_width for column in val.columns]
            fitted_n = [column.interval_n for column in val.columns]
        return measure_numbers(
            table,
            self.labels,
            bad,
            half_widths,
            fitted_n,
            is_fitted_here=split == "val",
        )

    def write(
        self, folder: Path, name: str, result: Result, bad: Sequence[BadFile]
    ) -> None:
        """Write <name>.csv with a row an image: number, answer, interval and error."""
        assert isinstance(result, Regression)
        half_widths = [column.interval_half_width for column in result.columns]
        names, table = self.labels.names, self.table()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        keys = [key for name in names for key in field_names(name, names, CELLS)]
        writer.writerow(["path", *keys])
        for path, truth, values in zip(
            table.ids, table.truth, table.values, strict=True
        ):
            row = zip(truth, values, half_widths, strict=True)
            cells = [_cells(*numbers) for numbers in row]
            writer.writerow(
                [escape_cell(path), *(cell for part in cells for cell in part)]
            )
        for file, truth in zip(bad, _bad_truth(bad, len(names)), strict=True):
            cells = [_cells(number, math.nan, None) for number in truth]
            writer.writerow(
                [escape_cell(file.path), *(cell for part in cells for cell in part)]
            )
        write_atomic(folder / f"{name}.csv", text.getvalue())


def measure_numbers(
    table: NumberTable,
    labels: NumberLabels,
    bad: Sequence[BadFile],
    half_widths: Sequence[float | None],
    fitted_n: Sequence[int | None] = (),
    *,
    is_fitted_here: bool = False,
) -> Regression:
    """Return the result of answers in a table.

    Args:
        bad: files that could not be read.
        half_widths: of the interval of each column.
        fitted_n: numbers that each half width was fitted on; empty if unknown.
        is_fitted_here: the half widths come from this table, so their coverage says
            nothing.
    """
    lost = _bad_truth(bad, len(labels.names))
    truth = np.concatenate([table.truth, lost])
    mean = np.array(labels.mean)
    values = np.concatenate([table.values, np.broadcast_to(mean, lost.shape)])
    _validate(truth, values, labels)
    baseline = np.broadcast_to(mean, truth.shape)
    measures = _column_measures(truth, values)
    baselines = _column_measures(truth, baseline)
    columns = []
    for index, name in enumerate(labels.names):
        errors = (table.values - table.truth)[:, index]
        half = half_widths[index]
        covered = None if is_fitted_here else _coverage(errors, half)
        columns.append(
            NumberColumn(
                name=name,
                mean=labels.mean[index],
                n=int((~np.isnan(truth[:, index])).sum()),
                interval_half_width=half,
                interval_n=fitted_n[index] if fitted_n else None,
                coverage=None if covered is None else covered[0],
                coverage_interval=None if covered is None else covered[1],
                **_errors(measures[index], baselines[index], len(truth)),
            )
        )
    overall = _errors(mean_measure(measures), mean_measure(baselines), len(truth))
    squares = np.square((values - truth) / np.array(labels.std))
    return Regression(
        n=len(truth),
        n_unreadable=len(bad),
        loss=float(np.nanmean(squares)),
        columns=tuple(columns),
        **overall,
    )


def _column_measures(
    truth: Float[np.ndarray, "examples columns"],
    values: Float[np.ndarray, "examples columns"],
) -> list[ColumnMeasure]:
    return [ColumnMeasure(*pair) for pair in zip(truth.T, values.T, strict=True)]


def _errors(measure: Measure, baseline: Measure, n: int) -> dict[str, Any]:
    """Return the fields of `Errors`."""
    once = np.ones(n)
    numbers, limits = measure(once), bootstrap_intervals(measure, n)
    fields: dict[str, Any] = {}
    for name, number, interval in zip(NAMES, numbers, limits, strict=True):
        defined = not np.isnan(number)
        fields[name] = float(number) if defined else None
        fields[f"{name}_interval"] = interval if defined else None
    for name, number in zip(NAMES[:2], baseline(once), strict=False):
        fields[f"baseline_{name}"] = None if np.isnan(number) else float(number)
    return fields


def _coverage(
    errors: Float[np.ndarray, " examples"], half_width: float | None
) -> tuple[float, Interval] | None:
    present = errors[~np.isnan(errors)]
    if half_width is None or not len(present):
        return None
    inside = int((np.abs(present) <= half_width).sum())
    return inside / len(present), wilson(inside, len(present))


def _bad_truth(
    bad: Sequence[BadFile], num_columns: int
) -> Float[np.ndarray, "files columns"]:
    rows = [file.target for file in bad]
    return np.array(rows, dtype=np.float64).reshape(len(rows), num_columns)


def _cells(truth: float, value: float, half_width: float | None) -> list[str]:
    """Return the cells of one number; empty where it is missing."""
    half = math.nan if half_width is None else half_width
    numbers = (truth, value, value - half, value + half, value - truth)
    return ["" if math.isnan(number) else f"{number:.9g}" for number in numbers]


def _validate(
    truth: Float[np.ndarray, "examples columns"],
    values: Float[np.ndarray, "examples columns"],
    labels: NumberLabels,
) -> None:
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise DivergedError(
            f"the answers for {(~finite).sum()} of {len(finite)} examples are not "
            f"finite (first: row {int((~finite).argmax())}). The model has diverged; "
            "train with a lower learning rate or load an earlier checkpoint."
        )
    if np.isnan(truth).all():
        raise DataError(
            f"there is no number to measure with: none of {len(truth)} examples has a "
            f"value of {', '.join(labels.names)}. Fill the cells of this split."
        )
