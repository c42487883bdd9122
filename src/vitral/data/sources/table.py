"""List a labels.csv or .jsonl with a row per image or clip as a data set.

Columns: path, label, and optionally split, group and weight, for clips start and end.
Several labels are joined by ";": a multi-label row, or with weights a soft target.
"""

import json
import math
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitral.data.dataset import (
    SPLIT_ALIASES,
    ClipReader,
    Dataset,
    FileReader,
    shorten_names,
)
from vitral.data.example import Example
from vitral.data.order import natural_key
from vitral.data.sources.table_rows import (
    LABELLED,
    column_text,
    csv_rows,
    json_rows,
    read_text,
)
from vitral.data.video import (
    VIDEO_EXTENSIONS,
    clip_id,
    is_clip_path,
    is_image_path,
    parse_span,
    require_av,
)
from vitral.errors import ConfigError, DataError


class _ColumnError(Exception):
    """A fault in one column of one row; becomes a DataError with the line."""

    def __init__(self, column: str, text: str) -> None:
        super().__init__(text)
        self.column = column


@dataclass(frozen=True, kw_only=True)
class _TableRow:
    line: int
    path: str
    names: tuple[str, ...]
    """The labels."""
    weights: tuple[float, ...] | None
    split: str
    group: str
    span: tuple[float, float] | None
    columns: tuple[Any, ...]
    """Values of the columns that were asked for."""

    @property
    def id(self) -> str:
        return clip_id(self.path, self.span)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns that a table is read for."""

    group: str
    required: tuple[str, ...]
    kept: tuple[str, ...]


def table_columns(path: Path) -> tuple[str, ...]:
    """Return the columns of a table, of .jsonl those of the first row."""
    text = read_text(path)
    read = json_rows if path.suffix == ".jsonl" else csv_rows
    return tuple(next(read(path, text, ()), (0, {}))[1])


def read_table(
    path: Path,
    group_by: str = "",
    kind: Literal["auto", "clips"] = "auto",
    columns: tuple[str, ...] = (),
    unlabelled: bool = False,
) -> Dataset:
    """List the examples of a table; paths are relative to the table's folder.

    Args:
        path: a .csv or .jsonl file in UTF-8. In .jsonl a label is a string, a list of
            strings, or an object {class: weight}.
        group_by: the column that names the group; "" takes "group" if it exists.
        kind: "auto" decides by the first row; "clips" requires clips.
        columns: columns that each example keeps; `label` is then not read.
        unlabelled: accept a table without a column `label`; its one class is "images".

    Raises:
        DataError: a row is invalid; the message names line, column and remedy.
        ConfigError: `group_by` is not a column.
        MissingExtraError: there are video files and PyAV is not installed.
    """
    required = ("path", *columns) if columns else LABELLED
    if unlabelled and "label" not in table_columns(path):
        required = ("path",)
    wanted = _Columns(group_by, required, columns)
    rows = _read_rows(path, wanted, kind)
    if not rows:
        raise DataError(
            f"{path} has no row. Expected {column_text(required)}; add examples."
        )
    _check_splits(path, rows)
    if "label" in required:
        classes = _class_map(path, rows)
    else:
        classes = () if columns else ("images",)
    clips = is_clip_path(path.parent / rows[0].path)
    if any(Path(row.path).suffix.lower() in VIDEO_EXTENSIONS for row in rows):
        require_av()
    return Dataset(
        name=path.resolve().parent.name if path.stem == "labels" else path.stem,
        root=path.parent,
        classes=classes,
        examples=tuple(_make_example(row, classes) for row in rows),
        reader=(ClipReader if clips else FileReader)(root=path.parent),
        kind="clips" if clips else "images",
    )


def _read_rows(path: Path, wanted: _Columns, kind: str) -> list[_TableRow]:
    read = json_rows if path.suffix == ".jsonl" else csv_rows
    raw_rows = read(path, read_text(path), wanted.required)
    group_by = wanted.group
    rows: list[_TableRow] = []
    seen: dict[str, int] = {}
    for line, values in raw_rows:
        if not rows and group_by and group_by not in values:
            raise ConfigError(
                f"group_by must be a column of {path.name}: got {group_by!r}; found "
                f"{', '.join(values)}."
            )
        try:
            row = _parse_row(path.parent, line, values, wanted, kind)
            if row.id in seen:
                raise _ColumnError(
                    "path", f"{row.id!r} is already in line {seen[row.id]}; keep one"
                )
            # The first row decides for the others.
            kind = "clips" if is_clip_path(path.parent / row.path) else "images"
        except _ColumnError as fault:
            raise DataError(
                f"{path.name} line {line}, column {fault.column!r}: {fault}."
            ) from None
        seen[row.id] = line
        rows.append(row)
    return rows


def _parse_row(
    root: Path, line: int, values: dict[str, Any], wanted: _Columns, kind: str
) -> _TableRow:
    split = str(values.get("split") or "").strip()
    if split and split.lower() not in SPLIT_ALIASES:
        raise _ColumnError(
            "split", f"expected train, val or test, got {split!r}; correct it"
        )
    values = _split_span(root, values)
    path = _parse_path(root, values["path"], kind)
    span = None
    if is_clip_path(root / path):
        try:
            span = parse_span(values.get("start"), values.get("end"))
        except ValueError as error:
            raise _ColumnError("start", str(error)) from None
    names: tuple[str, ...] = ()
    weights = None
    if "label" in wanted.required:
        names, weights = _parse_labels(values["label"], values.get("weight"))
    elif not wanted.kept:
        names = ("images",)
    return _TableRow(
        line=line,
        path=path,
        names=names,
        weights=weights,
        split=SPLIT_ALIASES[split.lower()] if split else "",
        group=str(values.get(wanted.group or "group") or "").strip(),
        span=span,
        columns=tuple(values[name] for name in wanted.kept),
    )


def _split_span(root: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Move the span of a path such as `a.mp4#t=0,2`, of a saved split, to columns."""
    path = values["path"]
    if not isinstance(path, str) or "#t=" not in path or (root / path).exists():
        return values
    file, _, seconds = path.rpartition("#t=")
    start, _, end = seconds.partition(",")
    return {**values, "path": file, "start": start, "end": end}


def _parse_path(root: Path, value: Any, kind: str) -> str:
    if not isinstance(value, str) or not value.strip():
        noun = "a clip" if kind == "clips" else "an image file"
        raise _ColumnError("path", f"it is empty; name {noun} or remove the row")
    path = posixpath.normpath(value.strip())
    if posixpath.isabs(path):
        raise _ColumnError(
            "path", f"{value!r} is absolute; write it relative to the table's folder"
        )
    file = root / path
    if not file.is_file() and (kind == "images" or not file.is_dir()):
        raise _ColumnError(
            "path", f"{file} is no file; correct the path or remove the row"
        )
    if kind == "clips" and is_image_path(file):
        raise _ColumnError(
            "path",
            f"{path!r} is an image where a clip is needed; name a video file, an .npz "
            "or a folder of frames, or choose a model of images",
        )
    if kind == "images" and is_clip_path(file):
        raise _ColumnError("path", f"{path!r} is a clip among images; keep one kind")
    return path


def _parse_labels(
    label: Any, weight: Any
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Return the classes of a row, and their normalised weights."""
    names: list[Any]
    weights: list[Any] | None
    if isinstance(label, dict):
        if weight not in (None, ""):
            raise _ColumnError(
                "weight", "the label holds weights already; keep one of them"
            )
        names, weights = list(label), list(label.values())
    elif isinstance(label, list):
        names, weights = label, _parse_weights(weight)
    else:
        text = label if isinstance(label, str) else json.dumps(label)
        names, weights = text.split(";"), _parse_weights(weight)
    names = [
        name.strip() if isinstance(name, str) else json.dumps(name) for name in names
    ]
    if not names or not all(names) or label is None:
        raise _ColumnError("label", "it is empty; name a class or remove the row")
    if len(set(names)) < len(names):
        raise _ColumnError(
            "label", f"a class is named twice in {';'.join(names)!r}; keep one"
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
        raise _ColumnError(
            "weight",
            f"{len(weights)} weight(s) for {len(names)} label(s); give one per label",
        )
    if not all(value >= 0 for value in values) or not 0 < total < math.inf:
        raise _ColumnError(
            "weight",
            f"expected numbers of at least 0 with a sum above 0, got {weights}; "
            "correct them",
        )
    return tuple(value / total for value in values)


def _check_splits(path: Path, rows: list[_TableRow]) -> None:
    missing = [row for row in rows if not row.split]
    if missing and len(missing) < len(rows):
        raise DataError(
            f"{path.name} line {missing[0].line}, column 'split': it is empty while "
            "other rows have one. Fill all rows, or none for a split by hash."
        )
    if not missing and not any(row.split == "train" for row in rows):
        raise DataError(
            f"{path.name}, column 'split': no row says train. Add training rows, or "
            "empty the column for a split by hash."
        )


def _class_map(path: Path, rows: list[_TableRow]) -> tuple[str, ...]:
    train = {name for row in rows if row.split in ("", "train") for name in row.names}
    classes = sorted(train, key=natural_key)
    for row in rows:
        unknown = [name for name in row.names if name not in train]
        if unknown:
            in_split = {
                name for peer in rows if peer.split == row.split for name in peer.names
            }
            raise DataError(
                f"{path.name} line {row.line}, column 'label': {row.split} has the "
                f"class(es) {shorten_names(unknown)}, which train lacks. Classes of "
                f"train: {shorten_names(classes)}. Classes of {row.split}: "
                f"{shorten_names(sorted(in_split, key=natural_key))}. Correct the "
                "label, or add training rows."
            )
    if len(classes) < 2:
        raise DataError(
            f"{path.name} names one class only, {classes[0]!r}; at least two are "
            "needed to classify. Add rows of another class."
        )
    return tuple(classes)


def _make_example(row: _TableRow, classes: tuple[str, ...]) -> Example:
    class_index = {name: index for index, name in enumerate(classes)}
    label = tuple(sorted(class_index[name] for name in row.names))
    target = None
    if row.weights is not None:
        by_name = dict(zip(row.names, row.weights, strict=True))
        target = tuple(by_name.get(name, 0.0) for name in classes)
        label = (target.index(max(target)),)
    # Spans of one file look alike: they must not end up in two splits.
    group = row.group or (row.path if row.span else "")
    return Example(
        id=row.id,
        label=label,
        target=target,
        split=row.split,
        group=group,
        span=row.span,
        columns=row.columns,
        location=(row.line,) if row.columns else (),
    )
