"""Measure a run on a split; compare two runs."""

from vitral.workflows.evaluate.compare import Compared, compare_runs
from vitral.workflows.evaluate.evaluate import evaluate, measure_split

__all__ = ["Compared", "compare_runs", "evaluate", "measure_split"]
