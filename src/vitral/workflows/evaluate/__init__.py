"""Measure a run on a split; compare two runs."""

from vitral.workflows.evaluate.compare import RunComparison, compare_runs
from vitral.workflows.evaluate.evaluate import evaluate, evaluate_split

__all__ = ["RunComparison", "compare_runs", "evaluate", "evaluate_split"]
