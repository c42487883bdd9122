"""Table of several runs, with a remark on whether their intervals overlap.

A paired test on the same images says more than two intervals do: `vitral compare`.
"""

from dataclasses import dataclass
from typing import Any

from vitral.evaluation import Interval
from vitral.report.load_run import Result, RunFolder, result_file
from vitral.report.numbers import count, interval, pointer, share
from vitral.report.sections import bar
from vitral.tasks.classification import Classification


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """Table on top of a report of several runs."""

    lines: list[dict[str, Any]]
    remarks: list[str]


def compare(runs: list[RunFolder]) -> ComparisonTable:
    """Return the headline result of each run, in the given order."""
    return ComparisonTable([_comparison_row(run) for run in runs], _remarks(runs))


def _comparison_row(run: RunFolder) -> dict[str, Any]:
    """Return a row of the template; its numbers are None without a result."""
    split = run.headline_split
    cells: dict[str, Any] = {"n": None, "number": None, "interval": [], "bar": None}
    if split is not None:
        result, file = run.results[split], result_file(split)
        field, value, limits = _score(result)
        cells = {
            "n": count(result.n, pointer(file, "n")),
            "number": share(value, pointer(file, field)),
            "interval": interval(limits, pointer(file, f"{field}_interval")),
            "bar": bar(limits, value),
        }
    return {
        "name": run.name,
        "model": run.model_name,
        "weights": run.setting("weights") or "none",
        "split": split or "not measured",
        **cells,
    }


def _score(result: Result) -> tuple[str, float, Interval]:
    """Return the compared measure: its field, value and interval."""
    if isinstance(result, Classification):
        return "top1", result.top1, result.top1_interval
    return "exact_match", result.exact_match, result.exact_match_interval


def _remarks(runs: list[RunFolder]) -> list[str]:
    measured = [
        (run, run.headline_split) for run in runs if run.headline_split is not None
    ]
    if len(measured) < 2:
        return ["Fewer than two of these runs have a result, so nothing is compared."]
    splits = {split for _, split in measured}
    prints = {(run.data or {}).get("fingerprint") for run, _ in measured}
    if len(splits) > 1 or len(prints) > 1 or None in prints:
        return [
            "These runs were not measured on the same images (another split or another "
            "data fingerprint): their numbers cannot be compared."
        ]
    scores = [(run.name, *_score(run.results[split])) for run, split in measured]
    scores.sort(key=lambda score: -score[2])
    (best, _, _, limits), *others = scores
    close = [name for name, _, _, other in others if other.high >= limits.low]
    if not close:
        return [f"{best} is best, and no other interval overlaps its interval."]
    return [
        f"{best} has the highest number, but its interval overlaps that of "
        f"{' and '.join(close)}: from these intervals they cannot be told apart."
    ]
