"""Read and write predictions/<split>.csv: one row per image.

Only single-label results; columns as in the run folder's contract.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vitral.atomic_io import write_atomic
from vitral.data.names import escape_cell, unescape_cell
from vitral.errors import ConfigError
from vitral.tasks.classification.single_label import label_ranks, softmax

COLUMNS = (
    "path",
    "label",
    "predicted",
    "confidence",
    "label_probability",
    "rank",
    "correct",
)
MAX_PROBABILITY_COLUMNS = 20


class Prediction(NamedTuple):
    """One row; `predicted` is empty and the three numbers None when undecodable."""

    path: str
    label: str
    predicted: str
    confidence: float | None
    label_probability: float | None
    rank: int | None
    correct: bool


def write_predictions(
    path: Path,
    ids: Sequence[str],
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    class_names: Sequence[str],
    *,
    unreadable: Sequence[tuple[str, int]] = (),
) -> None:
    """Write the table; with 20 classes or fewer each class's probability too.

    Args:
        path: the CSV file; its folder must exist.
        ids: the example ids, in the order of `logits`.
        logits: scores before the softmax.
        labels: the index of the right class.
        class_names: in the order of the logits.
        unreadable: id and label of each file that could not be decoded.
    """
    assert len(ids) == len(labels)
    probability = softmax(logits)
    answer = logits.argmax(axis=1)
    rank = label_ranks(logits, labels)
    wide = len(class_names) <= MAX_PROBABILITY_COLUMNS
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"p:{name}" for name in class_names if wide)])
    for i, name in enumerate(ids):
        writer.writerow(
            [
                escape_cell(name),
                escape_cell(class_names[labels[i]]),
                escape_cell(class_names[answer[i]]),
                f"{probability[i, answer[i]]:.6g}",
                f"{probability[i, labels[i]]:.6g}",
                rank[i],
                int(answer[i] == labels[i]),
                *(f"{value:.6g}" for value in probability[i] if wide),
            ]
        )
    empty = [""] * (len(class_names) if wide else 0)
    for name, label in unreadable:
        cells = [escape_cell(name), escape_cell(class_names[label])]
        writer.writerow([*cells, "", "", "", "", 0, *empty])
    write_atomic(path, text.getvalue())


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """Read the table without the probability columns.

    Raises:
        ConfigError: a column is missing or a number cannot be read.
    """
    try:
        return _read_rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{path} is not a readable table ({error}). Write the file again with "
            "`vitral eval`."
        ) from error


def _read_rows(path: Path) -> tuple[Prediction, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise ConfigError(
                f"{path}: the column {missing[0]!r} is missing; expected "
                f"{','.join(COLUMNS)}. Write the file again with `vitral eval`."
            )
        rows = []
        for row in reader:
            try:
                rows.append(_prediction(row))
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{path}: line {reader.line_num} cannot be read ({error}). Write "
                    "the file again with `vitral eval`."
                ) from error
    return tuple(rows)


def _prediction(row: dict[str, str]) -> Prediction:
    return Prediction(
        path=unescape_cell(row["path"]),
        label=unescape_cell(row["label"]),
        predicted=unescape_cell(row["predicted"]),
        confidence=_read_share(row["confidence"]),
        label_probability=_read_share(row["label_probability"]),
        rank=int(row["rank"]) if row["rank"] else None,
        correct=row["correct"] == "1",
    )


def _read_share(text: str) -> float | None:
    value = float(text) if text else None
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{text[:20]} is no share from 0 to 1")
    return value
