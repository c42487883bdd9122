"""Results of the rounds of a self-training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitral.evaluation import Interval
from vitral.tasks import read_result
from vitral.workflows.run import Run


@dataclass(frozen=True, slots=True)
class RoundResult:
    """Accuracy of a teacher or a student on the held-out images."""

    name: str
    """`teacher`, or `round 2`."""
    path: Path
    accuracy: float
    interval: Interval
    n: int


def round_results(name: str, run: Run, split: str) -> tuple[RoundResult, ...]:
    """Return the result of a run on a split; none without a split."""
    values = run.metrics.get(split)
    return () if values is None else (make_result(name, run.path, values),)


def make_result(name: str, path: Path, values: dict[str, Any]) -> RoundResult:
    """Return a stored result of a run as one of a round."""
    result = read_result(values)
    number, limits = result.headline().require()
    return RoundResult(name, path, number, limits, result.n)
