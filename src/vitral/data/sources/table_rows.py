"""Parse a .csv or .jsonl table into dictionaries with line numbers."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitral.errors import DataError

COLUMN_TEXT = "path,label[,split,group,weight]"  # and start,end for clips
_ALIASES = {"file_name": "path"}
"""Columns of other libraries' tables."""
LABELLED = ("path", "label")
"""Columns that a table of labels must have."""


class ColumnError(Exception):
    """A fault in one column of one row; becomes a DataError with the line."""

    def __init__(self, column: str, text: str) -> None:
        super().__init__(text)
        self.column = column


def column_text(required: tuple[str, ...]) -> str:
    """Return the columns of a table as a message lists them."""
    if required == LABELLED:
        return COLUMN_TEXT
    return f"{','.join(required)}[,split,group]"


def read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name} line {line}: byte 0x{content[error.start]:02x} is not UTF-8. "
            "Save the table as UTF-8."
        ) from error


def rename_columns(header: Sequence[str]) -> list[str]:
    """Return the columns under vitral's names."""
    if "path" in header:
        return list(header)
    return [_ALIASES.get(name, name) for name in header]


def check_columns(path: Path, header: list[str], required: tuple[str, ...]) -> None:
    """Refuse a header with a column twice, or without a required one."""
    _require_columns_once(path, header)
    for column in required:
        if column not in header:
            is_joined = len(header) == 1 and path.suffix == ".csv"
            hint = "Separate columns by commas" if is_joined else "Rename it"
            raise DataError(
                f"{path.name} line 1: column {column!r} is missing; found "
                f"{', '.join(header) or 'nothing'}; expected "
                f"{column_text(required)}. {hint}."
            )


def csv_rows(
    path: Path, text: str, required: tuple[str, ...] = LABELLED
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each row's first line, and its values by column."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        header = rename_columns(header)
        check_columns(path, header, required)
        line = reader.line_num
        for values in reader:
            # A quoted field may span lines; a row has the number of its first line.
            first, line = line + 1, reader.line_num
            if not values:
                continue
            if len(values) != len(header):
                raise DataError(
                    f"{path.name} line {first}: {len(values)} fields, but the header "
                    f"has {len(header)} ({', '.join(header)}). Quote fields that hold "
                    "commas."
                )
            yield first, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path.name} line {reader.line_num}: not valid CSV ({error}). Correct the "
            "quotes."
        ) from error


def _describe(error: ValueError | RecursionError) -> str:
    """Return what is wrong with a line of JSON."""
    if isinstance(error, RecursionError):
        return "brackets within brackets, too many to read"
    if isinstance(error, json.JSONDecodeError):
        return str(error)
    return "a number of more than 4,300 digits"


def _require_columns_once(path: Path, header: list[str]) -> None:
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise DataError(
            f"{path.name} line 1: the column {twice[0]!r} is there twice, and which "
            "of them holds is not said. Rename or remove one."
        )


def json_rows(
    path: Path, text: str, required: tuple[str, ...] = LABELLED
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line that is not empty, and its object."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path.name} line {number}: not valid JSON ({_describe(error)}). "
                "Write one object per line."
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                f"{path.name} line {number}: expected an object with "
                f"{' and '.join(required)}, got {type(values).__name__}. Write one "
                "object per line."
            )
        values = dict(zip(rename_columns(list(values)), values.values(), strict=True))
        for column in required:
            if column not in values:
                raise DataError(
                    f"{path.name} line {number}: column {column!r} is missing; found "
                    f"{', '.join(values) or 'nothing'}; expected "
                    f"{column_text(required)}. Add it."
                )
        yield number, values
