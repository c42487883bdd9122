"""Section "Results": summary, table of classes, and figures."""

from collections.abc import Sequence
from typing import Any

from vitral.evaluation import Interval
from vitral.report.images import svg_picture
from vitral.report.load_run import Result, RunFolder, result_file
from vitral.report.numbers import (
    NONE,
    Number,
    Text,
    count,
    decimal,
    interval,
    pointer,
    share,
)
from vitral.tasks.classification import Classification, MultiLabel
from vitral.tasks.classification import plots as classification_plots

MOST_CLASSES_AT_ONCE = 30
LOWEST_CLASSES = 15
_COLUMNS = {
    Classification: {"recall": "recall", "precision": "precision", "f1": "F1"},
    MultiLabel: {"average_precision": "average precision", "f1": "F1"},
}
"""Columns of the table of classes by their field; the first one ranks the classes."""
MetricCell = tuple[Number, Text]
"""A number of the summary with its interval; empty if it has none."""
_MEASURES = (
    ("n", "Images", "undecodable ones included"),
    ("top1", "Right at once (top-1)", "share of all images"),
    ("top5", "Right among five (top-5)", "share of all images"),
    (
        "balanced_accuracy",
        "Balanced accuracy",
        "mean recall; every class weighs the same",
    ),
    ("macro_f1", "Macro-F1", "mean F1 of the classes"),
    ("majority", "Most frequent class", "always answering it"),
    ("mean_average_precision", "Mean average precision", "over the labels"),
    ("exact_match", "Every label right", "share of all images"),
    ("micro_f1", "Micro-F1", "all label decisions together"),
    ("ece", "Calibration error", "confidence against accuracy; 0 is best"),
    ("nll", "Negative log-likelihood", "nats an image; 0 is best"),
)


def results_section(run: RunFolder, most_rows: int) -> dict[str, Any] | None:
    """Return the tables and figures of the template; None without a result."""
    split = run.headline_split
    if split is None:
        return None
    result = run.results[split]
    figures, note = [], ""
    if isinstance(result, Classification):
        matrix = result.confusion_matrix()
        if matrix.sum():
            figures = [
                svg_picture(classification_plots.confusion(matrix, result.classes)),
                svg_picture(classification_plots.reliability(result.reliability)),
            ]
        note = _calibration_note(result)
    return {
        "splits": list(run.results),
        "summary": _summary(run),
        "table": _class_table(result, split, most_rows),
        "figures": figures,
        "note": note,
        "selection_splits": [
            split for split in run.results if split in run.selection_splits
        ],
    }


def _summary(run: RunFolder) -> list[tuple[str, str, list[MetricCell | None]]]:
    """Return each measure with a note and its cell in every split."""
    rows = []
    for field, name, note in _MEASURES:
        cells = [
            _metric_cell(result, field, result_file(split))
            for split, result in run.results.items()
        ]
        if any(cells):
            rows.append((name, note, cells))
    return rows


def _metric_cell(result: Result, field: str, file: str) -> MetricCell | None:
    value = getattr(result, field, None)
    if value is None:
        return None
    source = pointer(file, field)
    if field == "n":
        return count(value, source), []
    if field in ("ece", "nll"):
        return decimal(value, source), []
    limits = getattr(result, f"{field}_interval", None)
    text = interval(limits, f"{source}_interval") if limits else []
    return share(value, source), text


def _calibration_note(result: Classification) -> str:
    if result.ece is None:
        return "No image could be decoded, so there is no confidence to judge."
    gap = sum(
        row.count * (row.confidence - row.accuracy)
        for row in result.reliability
        if row.confidence is not None and row.accuracy is not None
    )
    if result.ece < 0.02:
        return "Confidence can be read as a probability of being right."
    direction = "more" if gap > 0 else "less"
    return (
        f"On average the model is {direction} confident than it is right; orange lines "
        "show by how much in each step of confidence."
    )


def _class_table(result: Result, split: str, most_rows: int) -> dict[str, Any]:
    """Return the table of classes: all, or the lowest, and `every` one to unfold."""
    columns = {"support": "images", **_COLUMNS[type(result)]}
    rows = [
        _class_line(row, tuple(columns), pointer(result_file(split), "per_class", i))
        for i, row in enumerate(result.per_class)
    ]
    table = {"columns": list(columns.values())}
    if len(rows) <= MOST_CLASSES_AT_ONCE:
        return {**table, "lines": rows, "every": [], "left_out": 0}
    measured = [row for row in rows if row["numbers"][1].value is not None]
    measured.sort(key=lambda row: row["numbers"][1].value)
    return {
        **table,
        "lines": measured[:LOWEST_CLASSES],
        "every": rows[:most_rows],
        "left_out": max(len(rows) - most_rows, 0),
    }


def _class_line(row: Any, fields: Sequence[str], source: str) -> dict[str, Any]:
    """Return a row of the table, from one of `per_class` of either result."""
    support, *shares = fields
    numbers = [count(getattr(row, support), f"{source}/{support}")]
    numbers += [share(getattr(row, field), f"{source}/{field}") for field in shares]
    line = {"name": row.name, "numbers": numbers}
    if getattr(row, "recall", None) is None:
        return {**line, "interval": [NONE], "bar": None}
    limits = row.recall_interval
    text = interval(limits, f"{source}/recall_interval")
    return {**line, "interval": text, "bar": bar(limits, row.recall)}


def bar(limits: Interval, value: float) -> dict[str, float]:
    """Return the drawing of an interval on a scale of 0..100, to a tenth."""
    ends = {"low": limits.low, "high": limits.high, "value": value}
    return {name: round(100 * end, 1) for name, end in ends.items()}
