"""Answers as lines of JSON, as CSV or as Parquet: a part each, and all parts as one.

A name that is no UTF-8 keeps its odd bytes as `\\udc..` in every format.
"""

import csv
import importlib.util
import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitral.atomic_io import write_atomic
from vitral.errors import ConfigError, MissingExtraError

COLUMNS = ("path", "label", "confidence", "error")
"""Of a CSV file."""


class PredictionRow(NamedTuple):
    """The answer for one file, or why there is none."""

    path: str
    label: str = ""
    confidence: float = 0.0
    probabilities: dict[str, float] | None = None
    """Of the most probable classes, the highest first; None for an unreadable file."""
    error: str = ""


class RowCounts(NamedTuple):
    """What a part or a whole holds."""

    files: int
    unreadable: int


class Writer(ABC):
    """A format of answers."""

    suffix: str

    @abstractmethod
    def write(self, path: Path, rows: Sequence[PredictionRow]) -> None:
        """Write a part, whole or not at all."""

    @abstractmethod
    def count(self, path: Path) -> RowCounts:
        """How many rows a part has."""

    @abstractmethod
    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Write one file of all parts; no more than one is in memory."""


class _LineWriter(Writer):
    """A format of text, whose parts follow each other."""

    header = ""

    @abstractmethod
    def format_row(self, row: PredictionRow) -> str:
        """A row with its end of line."""

    def write(self, path: Path, rows: Sequence[PredictionRow]) -> None:
        write_atomic(path, self.header + "".join(map(self.format_row, rows)))

    def join(self, parts: Iterable[Path], path: Path) -> None:
        with path.open("wb") as whole:
            whole.write(self.header.encode())
            for part in parts:
                with part.open("rb") as opened:
                    opened.seek(len(self.header.encode()))
                    shutil.copyfileobj(opened, whole)


class JsonLinesWriter(_LineWriter):
    """An object a line; see docs/predict.md for its keys."""

    suffix = ".jsonl"

    def format_row(self, row: PredictionRow) -> str:
        values: dict[str, Any] = {"path": row.path}
        if row.error:
            values["error"] = row.error
        else:
            values |= {"label": row.label, "confidence": row.confidence}
            values["probabilities"] = row.probabilities
        return json.dumps(values) + "\n"

    def count(self, path: Path) -> RowCounts:
        with path.open(encoding="utf-8") as lines:
            bad = ["error" in json.loads(line) for line in lines]
        return RowCounts(len(bad), sum(bad))


class CsvWriter(_LineWriter):
    """A row a file; a name with a comma, a quote or a line break is in quotes."""

    suffix = ".csv"
    header = ",".join(COLUMNS) + "\n"

    def format_row(self, row: PredictionRow) -> str:
        share = "" if row.error else f"{row.confidence:.6g}"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_escape_surrogates(row.path), row.label, share, row.error])
        return text.getvalue()

    def count(self, path: Path) -> RowCounts:
        with path.open(encoding="utf-8", newline="") as opened:
            bad = [bool(row["error"]) for row in csv.DictReader(opened)]
        return RowCounts(len(bad), sum(bad))


class ParquetWriter(Writer):
    """A row group a part; `probabilities` is a map from class to share."""

    suffix = ".parquet"

    def __init__(self) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise MissingExtraError(
                "Parquet is written with pyarrow, which is not installed: "
                "`pip install 'vitral[hf]'`. JSON lines and CSV need it not."
            )
        import pyarrow as pa

        self.schema = pa.schema(
            [
                ("path", pa.string()),
                ("label", pa.string()),
                ("confidence", pa.float64()),
                ("probabilities", pa.map_(pa.string(), pa.float64())),
                ("error", pa.string()),
            ]
        )

    def write(self, path: Path, rows: Sequence[PredictionRow]) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        columns = {
            "path": [_escape_surrogates(row.path) for row in rows],
            "label": [None if row.error else row.label for row in rows],
            "confidence": [None if row.error else row.confidence for row in rows],
            "probabilities": [
                None if row.probabilities is None else list(row.probabilities.items())
                for row in rows
            ],
            "error": [row.error or None for row in rows],
        }
        table = pa.table(columns, schema=self.schema)
        write_atomic(path, lambda file: pyarrow.parquet.write_table(table, file))

    def count(self, path: Path) -> RowCounts:
        import pyarrow.parquet

        errors = pyarrow.parquet.read_table(path, columns=["error"])["error"]
        return RowCounts(len(errors), len(errors) - errors.null_count)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetWriter(path, self.schema) as whole:
            for part in parts:
                whole.write_table(pyarrow.parquet.read_table(part, schema=self.schema))


WRITERS: dict[str, type[Writer]] = {
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
    "parquet": ParquetWriter,
}


def resolve_format(name: str, out: Path | None) -> str:
    """The format that was asked for, or else that of the file's ending; JSON lines.

    Raises:
        ConfigError: the format and the ending differ, or Parquet has no file to go to.
    """
    name = {"json": "jsonl"}.get(name, name)
    if name and name not in WRITERS:
        raise ConfigError(
            f"`format` must be one of {', '.join(WRITERS)}: got {name!r}."
        )
    if out is None:
        if name == "parquet":
            raise ConfigError(
                "Parquet cannot be written to the terminal: give `--out FILE.parquet`."
            )
        return name or "jsonl"
    ending = out.suffix.lower().removeprefix(".")
    by_ending = {"json": "jsonl", "ndjson": "jsonl"}.get(ending, ending)
    if by_ending not in WRITERS:
        return name or "jsonl"
    if name and name != by_ending:
        raise ConfigError(
            f"`--out {out}` ends like {by_ending}, but `--format {name}` was asked "
            "for: leave one of them out."
        )
    return by_ending


def is_file_name(out: Path) -> bool:
    """Whether `out` names one file by its ending; a folder gets the parts."""
    return out.suffix.lower() in (".json", ".ndjson", *(f".{name}" for name in WRITERS))


def _escape_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
