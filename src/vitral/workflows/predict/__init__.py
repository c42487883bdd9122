"""Predict many files: resumable, in parts, to CSV, JSON lines or Parquet.

`predict_files` is imported when it is first used: a few files in the terminal need no
locks, no ranks and no configs, whose imports cost half a second.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vitral.workflows.predict.find_files import FileKind, find_files
from vitral.workflows.predict.rows import PredictOptions, move_model, predict_rows
from vitral.workflows.predict.writers import (
    WRITERS,
    CsvWriter,
    JsonLinesWriter,
    resolve_format,
)

if TYPE_CHECKING:
    from vitral.workflows.predict.predict import predict_files

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


def __getattr__(name: str) -> Any:
    if name == "predict_files":
        module = importlib.import_module("vitral.workflows.predict.predict")
        return module.predict_files
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
