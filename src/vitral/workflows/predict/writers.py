"""Writers of predictions as JSON lines, CSV or Parquet: one part, or all parts merged.

A file name that is not UTF-8 keeps its odd bytes as `\\udc..` in every format.
"""

import csv
import importlib.util
import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic
from vitral.errors import ConfigError, MissingExtraError

COLUMNS = ("path", "label", "confidence", "error")
"""Columns of a CSV file."""


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """The prediction for one file, or the error of reading it."""

    path: str
    label: str = ""
    confidence: float = 0.0
    probabilities: dict[str, float] | None = None
    """The most probable classes, the highest first; None for an unreadable file."""
    error: str = ""


class Writer(ABC):
    """Base class of the output formats."""

    suffix: str

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

    header = ""

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
        if row.error:
            values["error"] = row.error
        else:
            values |= {"label": row.label, "confidence": row.confidence}
            values["probabilities"] = row.probabilities
        return json.dumps(values) + "\n"

    def count(self, path: Path) -> tuple[int, int]:
        with path.open(encoding="utf-8") as lines:
            unreadable = ["error" in json.loads(line) for line in lines]
        return len(unreadable), sum(unreadable)


class CsvWriter(_LineWriter):
    """One row per file; a name with a comma, a quote or a line break is quoted."""

    suffix = ".csv"
    header = ",".join(COLUMNS) + "\n"

    def format_row(self, row: PredictionRow) -> str:
        confidence = "" if row.error else f"{row.confidence:.6g}"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            [_escape_surrogates(row.path), row.label, confidence, row.error]
        )
        return text.getvalue()

    def count(self, path: Path) -> tuple[int, int]:
        with path.open(encoding="utf-8", newline="") as file:
            unreadable = [bool(row["error"]) for row in csv.DictReader(file)]
        return len(unreadable), sum(unreadable)


class ParquetWriter(Writer):
    """One row group per part; `probabilities` maps a class to its probability."""

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
                "Parquet cannot be written to the terminal: give `--out FILE.parquet`."
            )
        return name or "jsonl"
    suffix = out.suffix.lower().removeprefix(".")
    by_suffix = {"json": "jsonl", "ndjson": "jsonl"}.get(suffix, suffix)
    if by_suffix not in WRITERS:
        return name or "jsonl"
    if name and name != by_suffix:
        raise ConfigError(
            f"`--out {out}` ends like {by_suffix}, but `--format {name}` was asked "
            "for: leave one of them out."
        )
    return by_suffix


def is_file_name(out: Path) -> bool:
    """Return whether the suffix of `out` names one file, not a folder of parts."""
    return out.suffix.lower() in (".json", ".ndjson", *(f".{name}" for name in WRITERS))


def _escape_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
