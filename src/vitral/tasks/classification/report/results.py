"""Blocks of the section "Results": the classes, and figures of errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitral.document import (
    NONE,
    Block,
    Column,
    Figures,
    Fold,
    Heading,
    Paragraph,
    Picture,
    Row,
    Table,
    bar,
    count,
    interval,
    pointer,
    result_file,
    share,
    svg_picture,
)
from vitral.tasks.classification import plots
from vitral.tasks.classification.multi_label import MultiLabel
from vitral.tasks.classification.result import Classification
from vitral.tasks.measures import Measure
from vitral.tasks.result import Result

MOST_CLASSES_AT_ONCE = 30
LOWEST_CLASSES = 15
_COLUMNS: dict[type[Result], dict[str, str]] = {
    Classification: {"recall": "recall", "precision": "precision", "f1": "F1"},
    MultiLabel: {"average_precision": "average precision", "f1": "F1"},
}
"""Columns of the table of classes by their field; the first one ranks the classes."""
MEASURES = (
    Measure("n", "Images", "undecodable ones included", "count"),
    Measure("top1", "Top-1 accuracy", "share of all images"),
    Measure("top5", "Right among five (top-5)", "share of all images"),
    Measure(
        "balanced_accuracy",
        "Balanced accuracy",
        "mean recall; every class weighs the same",
    ),
    Measure("macro_f1", "Macro-F1", "mean F1 of the classes"),
    Measure("majority", "Most frequent class", "always answering it"),
    Measure("mean_average_precision", "Mean average precision", "over the labels"),
    Measure("exact_match", "Every label right", "share of all images"),
    Measure("micro_f1", "Micro-F1", "all label decisions together"),
    Measure(
        "ece", "Calibration error", "confidence against accuracy; 0 is best", "decimal"
    ),
    Measure(
        "nll", "Negative log-likelihood", "nats an image; 0 is best", kind="decimal"
    ),
)
CARD_MEASURES: dict[type[Result], tuple[Measure, ...]] = {
    Classification: (
        Measure("top1", "top-1 accuracy"),
        Measure("top5", "top-5 accuracy"),
        Measure("balanced_accuracy", "balanced accuracy"),
        Measure("macro_f1", "macro-F1"),
        Measure("ece", "expected calibration error", kind="decimal"),
        Measure("majority", "most frequent class"),
    ),
    MultiLabel: (
        Measure("mean_average_precision", "mean average precision"),
        Measure("exact_match", "every label right"),
    ),
}


def class_blocks(result: Result, split: str, most_rows: int) -> list[Block]:
    """Return the table of classes and the figures of a split.

    Args:
        most_rows: rows of the table of all classes.
    """
    blocks = _class_tables(result, split, most_rows)
    if not isinstance(result, Classification):
        return blocks
    matrix = result.confusion_matrix()
    if matrix.sum():
        figures = [
            _confusion_picture(matrix, result.classes),
            svg_picture(plots.reliability(result.reliability)),
        ]
        blocks += [Heading(f"Confusion and confidence ({split})"), Figures(figures)]
    return [*blocks, Paragraph([_calibration_note(result)], "note")]


def _confusion_picture(matrix: np.ndarray, names: Sequence[str]) -> Picture:
    narrow = (
        plots.confusion(matrix, names, narrow=True)
        if len(names) > plots.MOST_CLASSES
        else None
    )
    return svg_picture(plots.confusion(matrix, names), narrow)


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


def _class_tables(result: Result, split: str, most_rows: int) -> list[Block]:
    """Return the table of all classes; of many the lowest, and every one to unfold."""
    assert isinstance(result, Classification | MultiLabel)
    fields = _COLUMNS[type(result)]
    ranked_by = next(iter(fields))
    rows = [
        (
            getattr(row, ranked_by),
            _class_row(row, fields, pointer(result_file(split), "per_class", i)),
        )
        for i, row in enumerate(result.per_class)
    ]
    if len(rows) <= MOST_CLASSES_AT_ONCE:
        table = _class_table(fields, [row for _, row in rows], "Results per class")
        return [Heading(f"Classes ({split})"), table]
    measured = sorted((pair for pair in rows if pair[0] is not None), key=_value)
    lowest = [row for _, row in measured[:LOWEST_CLASSES]]
    every = [row for _, row in rows[:most_rows]]
    folded: list[Block] = [_class_table(fields, every, "Results of all classes")]
    if len(rows) > most_rows:
        text = f"The other classes are in {result_file(split)}."
        folded.append(Paragraph([text], "note"))
    return [
        Heading(f"The classes with the lowest recall ({split})"),
        _class_table(fields, lowest, "Results per class"),
        Fold("All classes", folded),
    ]


def _value(pair: tuple[float, Row]) -> float:
    return pair[0]


def _class_table(fields: dict[str, str], rows: Sequence[Row], caption: str) -> Table:
    columns = [Column("images")]
    for field, name in fields.items():
        columns.append(Column(name))
        if field == "recall":
            columns += [Column("95 % interval", "text"), Column("0 to 100 %", "bar")]
    return Table(caption=caption, corner="class", columns=columns, rows=rows, wide=True)


def _class_row(row: Any, fields: dict[str, str], source: str) -> Row:
    """Return a row of the table, from one of `per_class` of either result."""
    cells: list[Any] = [count(row.support, f"{source}/support")]
    for field in fields:
        value = getattr(row, field)
        cells.append(share(value, f"{source}/{field}"))
        if field == "recall" and value is None:
            cells += [[NONE], None]
        elif field == "recall":
            limits = row.recall_interval
            cells += [
                interval(limits, f"{source}/recall_interval"),
                bar(limits, value),
            ]
    return Row(row.name, cells)
