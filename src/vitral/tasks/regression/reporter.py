"""Report and card of a regression run: errors, answers over truth, worst answers."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from vitral.data.names import unescape_cell
from vitral.document import (
    Answered,
    Block,
    Figures,
    PageBudget,
    Paragraph,
    PictureSources,
    Remark,
    RunFolder,
    Section,
    Strong,
    Text,
    build_gallery,
    decimal,
    maps_note,
    pointer,
    result_file,
    significant,
    svg_picture,
)
from vitral.errors import ConfigError
from vitral.tasks.measures import Measure
from vitral.tasks.regression.answer import field_names
from vitral.tasks.regression.labels import MAX_NUMBER
from vitral.tasks.regression.plots import plot_residuals, plot_scatter
from vitral.tasks.regression.result import NumberColumn, Regression
from vitral.tasks.reporter import ExplainedExample, ImageScores, Reporter
from vitral.tasks.result import Result

MOST_ERRORS = 24
MOST_COLUMNS = 8
"""Columns that have figures."""
MEASURES = (
    Measure("n", "Images", "undecodable ones included", "count"),
    Measure("r2", "R2", "1 - squared error / variance", "decimal"),
    Measure("mae", "Mean absolute error", "in the units of the table", "decimal"),
    Measure("rmse", "Root mean squared error", "in the units of the table", "decimal"),
    Measure("spearman", "Spearman", "correlation of the ranks", "decimal"),
    Measure("baseline_mae", "Mean absolute error of the mean", "of train", "decimal"),
    Measure(
        "baseline_rmse", "Root mean squared error of the mean", "of train", "decimal"
    ),
)


@dataclass(frozen=True, slots=True)
class NumberRow:
    """Number and answer of one image in one column."""

    index: int
    """Row of the table of answers."""
    path: str
    truth: float
    value: float

    @property
    def error(self) -> float:
        return self.value - self.truth


class RegressionReporter(Reporter):
    """Writer of the parts of report and card on numbers."""

    subject: ClassVar[str] = "A model that reads numbers from images"

    def remarks(self, result: Result, split: str) -> list[Remark]:
        """Return the error beside that of the simplest baseline, and the rest."""
        others = super().remarks(result, split)
        if not isinstance(result, Regression) or result.baseline_mae is None:
            return others
        file = result_file(split)
        text: Text = [
            "The mean absolute error is ",
            significant(result.mae, pointer(file, "mae"), 3),
            "; always answering the mean of train would be off by ",
            significant(result.baseline_mae, pointer(file, "baseline_mae"), 3),
            ".",
        ]
        return [Remark("plain", text), *others]

    def sections(
        self, run: RunFolder[Result], sources: PictureSources, budget: PageBudget
    ) -> list[Section]:
        results, by_column = self.results_section(run), _rows_by_column(run)
        if not by_column:
            return [results]
        blocks = [_figures(column, rows) for column, rows in by_column[:MOST_COLUMNS]]
        note = Paragraph(
            [
                "A point on the dashed line is a right answer; the band is the "
                "interval that was fitted on val to hold 90 % of the numbers."
            ],
            "note",
        )
        results = replace(results, blocks=[*results.blocks, *blocks, note])
        return [results, _error_section(run, by_column, sources, budget.pictures)]

    def measures(self, result: Result) -> Sequence[Measure]:
        return MEASURES

    def select_examples(self, run: RunFolder[Result]) -> list[ExplainedExample]:
        worst = _worst(_rows_by_column(run))
        return [ExplainedExample(row.path, output) for output, _, row in worst]

    def image_scores(self, run: RunFolder[Result]) -> ImageScores | None:
        """Return the absolute error of each image, whose mean is that of the result."""
        result = run.results.get(run.headline_split or "")
        if not isinstance(result, Regression):
            return None
        paths, truth, values = _read_numbers(run, result)
        if not paths or np.isnan(truth).all(axis=0).any():
            return None
        # An unreadable image has the error of always answering the mean of train.
        means = np.array([column.mean for column in result.columns])
        errors = np.abs(np.where(np.isnan(values), means, values) - truth)
        weights = len(paths) / (~np.isnan(truth)).sum(axis=0)
        return ImageScores(
            name="mean absolute error",
            paths=tuple(paths),
            truths=tuple(str(row) for row in truth.tolist()),
            values=np.nan_to_num(errors * weights).mean(axis=1),
            higher_is_better=False,
        )

    def card_outputs(self, run: RunFolder[Result]) -> tuple[str, list[str]]:
        result = run.results.get(run.headline_split or "")
        columns = result.columns if isinstance(result, Regression) else ()
        return "Numbers", [column.name for column in columns]


Numbers = Float[np.ndarray, "images columns"]
Rows = list[tuple[NumberColumn, list[NumberRow]]]


def _rows_by_column(run: RunFolder[Result]) -> Rows:
    """Return the answers of the headline split with their numbers, by column.

    Raises:
        ConfigError: a column is missing or a number cannot be read.
    """
    result = run.results.get(run.headline_split or "")
    if not isinstance(result, Regression):
        return []
    paths, truth, values = _read_numbers(run, result)
    by_column: Rows = []
    for column, *numbers in zip(result.columns, truth.T, values.T, strict=True):
        rows = [
            NumberRow(index, path, float(own), float(answer))
            for index, (path, own, answer) in enumerate(
                zip(paths, *numbers, strict=True)
            )
            if not math.isnan(own + answer)
        ]
        by_column.append((column, rows))
    return [(column, rows) for column, rows in by_column if rows]


def _read_numbers(
    run: RunFolder[Result], result: Regression
) -> tuple[list[str], Numbers, Numbers]:
    """Return paths, right numbers and answers; NaN where a cell is empty.

    Raises:
        ConfigError: a column is missing or a number cannot be read.
    """
    file = run.table(run.headline_split or "")
    names = [column.name for column in result.columns]
    keys = [field_names(name, names, ("target", "value")) for name in names]
    paths: list[str] = []
    cells: list[list[list[float]]] = []
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            try:
                for row in reader:
                    cells.append([[_to_number(row[k]) for k in p] for p in keys])
                    paths.append(unescape_cell(row["path"]))
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise ConfigError(
                    f"{file}: line {reader.line_num} cannot be read ({error}). "
                    "Write the file again with `vitral eval`."
                ) from error
    numbers = np.array(cells, dtype=np.float64).reshape(len(paths), len(names), 2)
    return paths, numbers[..., 0], numbers[..., 1]


def _to_number(text: str) -> float:
    value = float(text) if text else math.nan
    if abs(value) > MAX_NUMBER:  # False for NaN
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _figures(column: NumberColumn, rows: Sequence[NumberRow]) -> Block:
    truth = np.array([row.truth for row in rows])
    values = np.array([row.value for row in rows])
    half = column.interval_half_width
    scatter = plot_scatter(truth, values, column.name, half)
    residuals = plot_residuals(truth, values, column.name)
    return Figures([svg_picture(scatter), svg_picture(residuals)])


def _worst(by_column: Rows) -> list[tuple[int, NumberColumn, NumberRow]]:
    """Return output, column and row of the largest errors, one an image.

    Errors of several columns are compared in units of the baseline's.
    """
    ranked = sorted(
        (
            (output, column, row)
            for output, (column, rows) in enumerate(by_column)
            for row in rows
        ),
        key=lambda item: -abs(item[2].error) / (item[1].baseline_rmse or 1.0),
    )
    by_image: dict[str, tuple[int, NumberColumn, NumberRow]] = {}
    for item in ranked:
        by_image.setdefault(item[2].path, item)
    return list(by_image.values())[:MOST_ERRORS]


def _error_section(
    run: RunFolder[Result], by_column: Rows, sources: PictureSources, budget: int
) -> Section:
    split = run.headline_split or ""
    answers = []
    for _, column, row in _worst(by_column):
        keys = field_names(column.name, [c.name for c, _ in by_column])
        source = pointer(f"predictions/{split}.csv", row.index, keys[0])
        alt = f"{column.name} {row.truth:g} taken for {row.value:.4g}"
        caption: Text = [
            Strong(f"{row.truth:g}"),
            " taken for ",
            decimal(row.value, source),
            *([f" ({column.name})"] if len(by_column) > 1 else []),
        ]
        answers.append(Answered(row.path, alt, caption))
    gallery = build_gallery(run, answers, sources, budget)
    text = f"The answers that are farthest from the truth ({split})."
    note = f" {maps_note(run)}" if gallery.with_maps else ""
    lead = Paragraph([f"{text}{note}"], "quiet")
    return Section(
        id="errors", title="Errors", heading="Worst errors", blocks=[lead, gallery]
    )
