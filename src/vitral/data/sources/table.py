"""List a labels.csv or .jsonl with a row per image or clip as a data set.

Columns: path, label, and optionally split, group and weight, for clips start and end.
Several labels are joined by ";": a multi-label row, or with weights a soft target.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from vitral.data.names import canonical_name
from vitral.data.order import natural_key
from vitral.data.sources.table_files import table_columns, table_files
from vitral.data.sources.table_labels import (
    add_marked_labels,
    has_marks,
    parse_labels,
)
from vitral.data.sources.table_paths import MissingFileError, PathFinder, shorten_path
from vitral.data.sources.table_rows import LABELLED, ColumnError, column_text
from vitral.data.targets import ClassShares
from vitral.data.video import (
    VIDEO_EXTENSIONS,
    clip_id,
    is_clip_path,
    parse_span,
    require_av,
)
from vitral.errors import ConfigError, DataError

_STEMS = ("labels", "metadata")
"""Tables that have the name of their folder."""


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
    is_list: bool
    """True if the labels were given one by one, so that there may be none."""
    where: str = ""
    """Table and line, for messages."""

    @property
    def id(self) -> str:
        return clip_id(self.path, self.span)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns that a table is read for."""

    group: str
    required: tuple[str, ...]
    kept: tuple[str, ...]
    marks_labels: bool
    """The labels are columns of 0 and 1, one a class."""


def read_table(
    path: Path,
    group_by: str = "",
    kind: Literal["auto", "clips"] = "auto",
    columns: tuple[str, ...] = (),
    unlabelled: bool = False,
) -> Dataset:
    """List the examples of a table; paths are relative to the table's folder.

    Args:
        path: a .csv or .jsonl file in UTF-8, or a folder of split folders that hold a
            metadata.csv each. In .jsonl a label is a string, a list of
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
    marks_labels = not columns and has_marks(path)
    if marks_labels or (unlabelled and "label" not in table_columns(path)):
        required = ("path",)
    wanted = _Columns(group_by, required, columns, marks_labels)
    rows, notes = _read_rows(path, wanted, kind)
    if not rows:
        raise DataError(
            f"{path} has no row. Expected {column_text(required)}; add examples."
        )
    _check_splits(path, rows)
    if "label" in required or marks_labels:
        _require_labels(rows)
        classes = _class_map(path, rows)
    else:
        classes = () if columns else ("images",)
    class_index = {name: index for index, name in enumerate(classes)}
    root = path if path.is_dir() else path.parent
    clips = is_clip_path(root / rows[0].path)
    if any(Path(row.path).suffix.lower() in VIDEO_EXTENSIONS for row in rows):
        require_av()
    return Dataset(
        name=root.resolve().name if path.stem in _STEMS or path.is_dir() else path.stem,
        root=root,
        classes=classes,
        examples=tuple(_make_example(row, class_index) for row in rows),
        reader=(ClipReader if clips else FileReader)(root=root),
        kind="clips" if clips else "images",
        notes=tuple(dict.fromkeys(notes)),
    )


def _read_rows(
    source: Path, wanted: _Columns, kind: str
) -> tuple[list[_TableRow], list[str]]:
    """Return the rows of all tables of a source, and notes."""
    root = source if source.is_dir() else source.parent
    finder = PathFinder(root)
    notes: list[str] = []
    rows: list[_TableRow] = []
    seen: dict[str, str] = {}
    missing: list[tuple[str, MissingFileError]] = []
    repeated: list[str] = []
    for table in table_files(source):
        raw_rows = list(table.rows(wanted.required))
        if wanted.marks_labels:
            notes += add_marked_labels(table, raw_rows, wanted.group)
        if raw_rows and wanted.group and wanted.group not in raw_rows[0][1]:
            raise ConfigError(
                f"`group_by` must be a column of {table.name}: got {wanted.group!r}; "
                f"found {', '.join(raw_rows[0][1])}."
            )
        for line, values in raw_rows:
            where = f"{table.name} line {line}"
            try:
                row = _parse_row(finder, line, table.place(values), wanted, kind)
            except MissingFileError as fault:
                missing.append((where, fault))
                continue
            except ColumnError as fault:
                raise DataError(f"{where}, column {fault.column!r}: {fault}.") from None
            if row.id in seen:
                repeated.append(
                    f"{where}, column 'path': {row.id!r} is already in {seen[row.id]}"
                )
                continue
            # The first row decides for the others.
            kind = "clips" if is_clip_path(root / row.path) else "images"
            seen[row.id] = f"line {line}" if source.is_file() else where
            rows.append(replace(row, where=where))
    _require_files(source, missing, len(rows))
    _require_once(source, repeated)
    return rows, notes + finder.notes()


def _require_files(
    source: Path, missing: list[tuple[str, MissingFileError]], present: int
) -> None:
    """Refuse a table that names files which do not exist, and list them."""
    if not missing:
        return
    if len(missing) == 1:
        where, fault = missing[0]
        raise DataError(f"{where}, column {fault.column!r}: {fault}.")
    listed = "; ".join(
        f"{where}: {shorten_path(fault.file)}" for where, fault in missing[:10]
    )
    raise DataError(
        f"{source}: {len(missing)} of {len(missing) + present} rows name no file"
        f"{', the first ten' if len(missing) > 10 else ''}: {listed}. Correct the "
        "paths, which are relative to the table's folder, or remove the rows."
    )


def _require_once(source: Path, repeated: list[str]) -> None:
    """Refuse a table that names files twice, and list the rows."""
    if len(repeated) == 1:
        raise DataError(f"{repeated[0]}; keep one.")
    if repeated:
        first = ", the first ten" if len(repeated) > 10 else ""
        raise DataError(
            f"{source}: {len(repeated)} rows name a file again{first}: "
            f"{'; '.join(repeated[:10])}. Keep one of each."
        )


def _require_labels(rows: list[_TableRow]) -> None:
    """Refuse rows without a label where no image has several."""
    several = any(
        (len(row.names) > 1 and row.weights is None) or (row.names and row.is_list)
        for row in rows
    )
    empty = next((row for row in rows if not row.names), None)
    if empty is not None and not several:
        raise DataError(
            f"{empty.where}, column 'label': it is empty; name a class or remove the "
            "row. A row may have no label where others have several, in lists of a "
            ".jsonl, or in columns of 0 and 1, one a class."
        )


def _parse_row(
    finder: PathFinder, line: int, values: dict[str, Any], wanted: _Columns, kind: str
) -> _TableRow:
    split = str(values.get("split") or "").strip()
    if split and split.lower() not in SPLIT_ALIASES:
        raise ColumnError(
            "split", f"expected train, val or test, got {split!r}; correct it"
        )
    root = finder.root
    values = _split_span(root, values)
    path = finder.find(values["path"], kind)
    span = None
    if is_clip_path(root / path):
        try:
            span = parse_span(values.get("start"), values.get("end"))
        except ValueError as error:
            raise ColumnError("start", str(error)) from None
    names: tuple[str, ...] = ()
    weights = None
    if "label" in wanted.required or wanted.marks_labels:
        names, weights = parse_labels(values["label"], values.get("weight"), path)
    elif not wanted.kept:
        names = ("images",)
    return _TableRow(
        line=line,
        path=path,
        names=names,
        weights=weights,
        split=SPLIT_ALIASES[split.lower()] if split else "",
        group=canonical_name(str(values.get(wanted.group or "group") or "").strip()),
        span=span,
        columns=tuple(values[name] for name in wanted.kept),
        is_list=isinstance(values.get("label"), list),
    )


def _split_span(root: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Move the span of a path such as `a.mp4#t=0,2`, of a saved split, to columns."""
    path = values["path"]
    if not isinstance(path, str) or "#t=" not in path or (root / path).exists():
        return values
    file, _, seconds = path.rpartition("#t=")
    start, _, end = seconds.partition(",")
    return {**values, "path": file, "start": start, "end": end}


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


def _make_example(row: _TableRow, class_index: Mapping[str, int]) -> Example:
    label = tuple(sorted(class_index[name] for name in row.names))
    target = None
    if row.weights is not None:
        indices = [class_index[name] for name in row.names]
        target = ClassShares.from_weights(dict(zip(indices, row.weights, strict=True)))
        label = (target.top,)
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
