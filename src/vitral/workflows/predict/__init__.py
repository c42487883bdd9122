"""Predict many files: resumable, in parts, to CSV, JSON lines or Parquet."""

from vitral.workflows.predict.find_files import FileKind, find_files
from vitral.workflows.predict.predict import (
    PredictOptions,
    move_model,
    predict_files,
    predict_rows,
)
from vitral.workflows.predict.writers import (
    WRITERS,
    CsvWriter,
    JsonLinesWriter,
    resolve_format,
)

__all__ = [
    "WRITERS",
    "CsvWriter",
    "FileKind",
    "JsonLinesWriter",
    "PredictOptions",
    "find_files",
    "move_model",
    "predict_files",
    "predict_rows",
    "resolve_format",
]
