"""Report of a classifier: sentence, tables, figures, answers and card."""

from vitral.tasks.classification.report.examples import select_answers
from vitral.tasks.classification.report.reporter import ClassificationReporter

__all__ = ["ClassificationReporter", "select_answers"]
