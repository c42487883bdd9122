"""Predict many files: resumable, in parts, to CSV, JSON lines or Parquet.

`predict_files` is imported when it is first used: a few files in the terminal need no
locks, no ranks and no configs, whose imports cost half a second.
"""

from typing import TYPE_CHECKING

from vitral.lazy import lazy_getattr
from vitral.workflows.predict.find_files import find_files
from vitral.workflows.predict.rows import PredictOptions, move_model, predict_rows
from vitral.workflows.predict.writers import (
    WRITERS,
    CsvWriter,
    JsonLinesWriter,
    resolve_format,
)

if TYPE_CHECKING:
    from vitral.workflows.predict.predict import predict_files

__getattr__ = lazy_getattr(
    __name__, {"vitral.workflows.predict.predict": "predict_files"}
)

__all__ = [
    "WRITERS",
    "CsvWriter",
    "JsonLinesWriter",
    "PredictOptions",
    "find_files",
    "move_model",
    "predict_files",
    "predict_rows",
    "resolve_format",
]
