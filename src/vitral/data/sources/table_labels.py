"""Parse the labels of a row of a table, and their weights."""

import json
import math
from pathlib import Path
from typing import Any

from vitral.data.dataset import shorten_names
from vitral.data.names import canonical_name, is_storable, join_names, split_names
from vitral.data.sources.table_files import TableFile, table_files
from vitral.data.sources.table_rows import ColumnError
from vitral.errors import DataError

_NOT_LABELS = {"path", "label", "split", "group", "weight", "start", "end"}
_MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False}
_MARKS["true"] = True


def has_marks(path: Path) -> bool:
    """Return whether a table without labels has two or more columns of 0 and 1."""
    try:
        rows = list(table_files(path)[0].rows(("path",)))
    except DataError:
        return False  # who reads the table says what is wrong
    labelled = bool(rows) and "label" in rows[0][1]
    return not labelled and len(_marked_columns(rows, "")) > 1


def add_marked_labels(
    table: TableFile, rows: list[tuple[int, dict[str, Any]]], group: str
) -> list[str]:
    """Write the names of the columns that are 1 as the labels of each row; say it."""
    columns = _marked_columns(rows, group)
    others = [c for c in rows[0][1] if c not in (*columns, *_NOT_LABELS, group)]
    for _, values in rows:
        values["label"] = [name for name in columns if _mark(values[name])]
    note = f"classes are the columns of 0 and 1: {shorten_names(columns)}"
    if others:
        note += f"; {table.name} has other columns, not read: {shorten_names(others)}"
    return [note]


def _marked_columns(rows: list[tuple[int, dict[str, Any]]], group: str) -> list[str]:
    names = [name for name in (rows[0][1] if rows else ()) if name not in _NOT_LABELS]
    return [
        name
        for name in names
        if name != group
        and all(_mark(values.get(name)) is not None for _, values in rows)
    ]


def _mark(value: Any) -> bool | None:
    """Return True for 1, False for 0, None for anything else."""
    return _MARKS.get(str(value).strip().lower())


def parse_labels(
    label: Any, weight: Any, path: str
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Return the classes of a row, none if it is empty, and their normalised weights.

    Raises:
        ColumnError: a class is empty, missing or named twice, or a weight is wrong.
    """
    names: list[Any]
    weights: list[Any] | None
    if isinstance(label, dict):
        if weight not in (None, ""):
            raise ColumnError(
                "weight", "the label holds weights already; keep one of them"
            )
        names, weights = list(label), list(label.values())
    elif isinstance(label, list):
        names, weights = label, _parse_weights(weight)
    else:
        text = label if isinstance(label, str) else json.dumps(label)
        # Tables of earlier versions did not mark a ";" in the name of a class folder.
        is_folder = ";" in text and text.strip() in path.split("/")[:-1]
        names = [text] if is_folder else split_names(text)
        weights = _parse_weights(weight)
    names = [
        canonical_name(name.strip() if isinstance(name, str) else json.dumps(name))
        for name in names
    ]
    if names in ([], [""]) and weights is None and label is not None:
        return (), None
    if not all(names) or label is None:
        raise ColumnError("label", "it is empty; name a class or remove the row")
    for name in names:
        if not is_storable(name):
            raise ColumnError(
                "label", f"{name!r} is not UTF-8; rename the class, or remove the row"
            )
    if any(name.lower() == "nan" for name in names):
        raise ColumnError(
            "label",
            f"it is {join_names(names)!r}, a missing number and no class; name a class "
            "or remove the row",
        )
    if len(set(names)) < len(names):
        raise ColumnError(
            "label", f"a class is named twice in {join_names(names)!r}; keep one"
        )
    shares = None if weights is None else _normalize_weights(weights, names)
    return tuple(names), shares


def _parse_weights(value: Any) -> list[Any] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value.split(";")
    return value if isinstance(value, list) else [value]


def _normalize_weights(weights: list[Any], names: list[str]) -> tuple[float, ...]:
    try:
        values = [float(weight) for weight in weights]
        total = math.fsum(values)
    except (TypeError, ValueError, OverflowError):
        values, total = [], math.nan
    if len(weights) != len(names):
        raise ColumnError(
            "weight",
            f"{len(weights)} weight(s) for {len(names)} label(s); give one per label",
        )
    if not all(value >= 0 for value in values) or not 0 < total < math.inf:
        raise ColumnError(
            "weight",
            f"expected numbers of at least 0 with a sum above 0, got {weights}; "
            "correct them",
        )
    return tuple(value / total for value in values)
