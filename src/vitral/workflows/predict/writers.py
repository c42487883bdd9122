"""Writers of predictions as JSON lines, CSV or Parquet: one part, or all parts merged.

A file name that is not UTF-8 keeps its odd bytes as `\\udc..` in every format.
"""

import csv
import importlib.util
import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic
from vitral.data.names import escape_cell
from vitral.errors import ConfigError, MissingExtraError
from vitral.tasks import Answer

Types = Mapping[str, type]
"""Columns of a task's answers: text, number, or numbers by name."""


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """The prediction for one file, or the error of reading it."""

    path: str
    answer: Answer | None = None
    """None for an unreadable file."""
    error: str = ""


class Writer(ABC):
    """Base class of the output formats."""

    suffix: str

    def __init__(self, types: Types) -> None:
        self.types = types

    @abstractmethod
    def write(self, path: Path, rows: Sequence[PredictionRow]) -> None:
        """Write a part atomically."""

    @abstractmethod
    def count(self, path: Path) -> tuple[int, int]:
        """Count the rows of a part, and those without a prediction."""

    @abstractmethod
    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Merge all parts into one file, with at most one part in memory."""


class _LineWriter(Writer):
    """A text format: merging concatenates the parts, with one header."""

    @property
    def header(self) -> str:
        """Return the first line, with its line break; empty without one."""
        return ""

    @abstractmethod
    def format_row(self, row: PredictionRow) -> str:
        """Return a row as text, with its line break."""

    def write(self, path: Path, rows: Sequence[PredictionRow]) -> None:
        write_atomic(path, self.header + "".join(map(self.format_row, rows)))

    def join(self, parts: Iterable[Path], path: Path) -> None:
        with path.open("wb") as merged:
            merged.write(self.header.encode())
            for part in parts:
                with part.open("rb") as file:
                    file.seek(len(self.header.encode()))
                    shutil.copyfileobj(file, merged)


class JsonLinesWriter(_LineWriter):
    """One JSON object per line; docs/predict.md lists its keys."""

    suffix = ".jsonl"

    def format_row(self, row: PredictionRow) -> str:
        values: dict[str, Any] = {"path": row.path}
        values |= {"error": row.error} if row.answer is None else row.answer.row()
        return json.dumps(values) + "\n"

    def count(self, path: Path) -> tuple[int, int]:
        with path.open(encoding="utf-8") as lines:
            unreadable = ["error" in json.loads(line) for line in lines]
        return len(unreadable), sum(unreadable)


class CsvWriter(_LineWriter):
    """One row per file; a name with a comma, a quote or a line break is quoted."""

    suffix = ".csv"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns between path and error: those with one value."""
        return tuple(name for name, kind in self.types.items() if kind is not dict)

    @property
    def header(self) -> str:
        """Return the line of names."""
        return _csv_line(["path", *self.columns, "error"])

    def format_row(self, row: PredictionRow) -> str:
        """Return a row as text, with its line break."""
        values = {} if row.answer is None else row.answer.row()
        cells = [_format_cell(values.get(name)) for name in self.columns]
        return _csv_line([escape_cell(_escape_surrogates(row.path)), *cells, row.error])

    def count(self, path: Path) -> tuple[int, int]:
        with path.open(encoding="utf-8", newline="") as file:
            unreadable = [bool(row["error"]) for row in csv.DictReader(file)]
        return len(unreadable), sum(unreadable)


class ParquetWriter(Writer):
    """One row group per part; numbers by name are a map."""

    suffix = ".parquet"

    def __init__(self, types: Types) -> None:
        super().__init__(types)
        if importlib.util.find_spec("pyarrow") is None:
            raise MissingExtraError(
                "Parquet is written with pyarrow, which is not installed: "
                "`pip install 'vitral[hf]'`. JSON lines and CSV need it not."
            )
        import pyarrow as pa

        arrow = {
            str: pa.string(),
            float: pa.float64(),
            dict: pa.map_(pa.string(), pa.float64()),
        }
        columns = [(name, arrow[kind]) for name, kind in types.items()]
        self.schema = pa.schema(
            [("path", pa.string()), *columns, ("error", pa.string())]
        )

    def write(self, path: Path, rows: Sequence[PredictionRow]) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        answers = [None if row.answer is None else row.answer.row() for row in rows]
        columns: dict[str, list[Any]] = {
            "path": [_escape_surrogates(row.path) for row in rows]
        }
        for name, kind in self.types.items():
            values = [None if row is None else row[name] for row in answers]
            if kind is dict:
                values = [v if v is None else list(v.items()) for v in values]
            columns[name] = values
        columns["error"] = [row.error or None for row in rows]
        table = pa.table(columns, schema=self.schema)
        write_atomic(path, lambda file: pyarrow.parquet.write_table(table, file))

    def count(self, path: Path) -> tuple[int, int]:
        import pyarrow.parquet

        errors = pyarrow.parquet.read_table(path, columns=["error"])["error"]
        return len(errors), len(errors) - errors.null_count

    def join(self, parts: Iterable[Path], path: Path) -> None:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetWriter(path, self.schema) as merged:
            for part in parts:
                merged.write_table(pyarrow.parquet.read_table(part, schema=self.schema))


WRITERS: dict[str, type[Writer]] = {
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
    "parquet": ParquetWriter,
}


def resolve_format(name: str, out: Path | None) -> str:
    """Return the requested format, else that of the suffix of `out`, else JSON lines.

    Raises:
        ConfigError: format and suffix differ, or Parquet has no file to be written to.
    """
    name = {"json": "jsonl"}.get(name, name)
    if name and name not in WRITERS:
        raise ConfigError(
            f"`format` must be one of {', '.join(WRITERS)}: got {name!r}."
        )
    if out is None:
        if name == "parquet":
            raise ConfigError(
                "Parquet cannot be written to the terminal: give `out=FILE.parquet`."
            )
        return name or "jsonl"
    suffix = out.suffix.lower().removeprefix(".")
    by_suffix = {"json": "jsonl", "ndjson": "jsonl"}.get(suffix, suffix)
    if by_suffix not in WRITERS:
        return name or "jsonl"
    if name and name != by_suffix:
        raise ConfigError(
            f"`out={out}` ends like {by_suffix}, but `format={name}` was asked "
            "for: leave one of them out."
        )
    return by_suffix


def is_file_name(out: Path) -> bool:
    """Return whether the suffix of `out` names one file, not a folder of parts."""
    return out.suffix.lower() in (".json", ".ndjson", *(f".{name}" for name in WRITERS))


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else escape_cell(str(value))


def _escape_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
