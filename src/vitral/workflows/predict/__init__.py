"""Predict many files: resumable, in parts, to CSV, JSON lines or Parquet."""

from vitral.workflows.predict.find_files import Kind, found
from vitral.workflows.predict.predict import Answers, place_model, predict_files, rows
from vitral.workflows.predict.writers import FORMS, Csv, JsonLines, form_of

__all__ = [
    "FORMS",
    "Answers",
    "Csv",
    "JsonLines",
    "Kind",
    "form_of",
    "found",
    "place_model",
    "predict_files",
    "rows",
]
