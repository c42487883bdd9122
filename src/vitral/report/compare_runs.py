"""Table of several runs, with a remark on whether their intervals overlap.

A paired test on the same images says more than two intervals do: `vitral compare`.
"""

from dataclasses import dataclass

from vitral.evaluation import Classification, Interval, MultiLabel
from vitral.report.load_run import RunFolder, result_file
from vitral.report.numbers import Number, Text, count, interval, pointer, share
from vitral.report.sections import Bar, bar


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One run of the comparison; its numbers are None without a result."""

    name: str
    model: str
    weights: str
    split: str
    n: Number | None
    number: Number | None
    interval: Text
    bar: Bar | None


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """Table on top of a report of several runs."""

    lines: list[ComparisonRow]
    remarks: list[str]


@dataclass(frozen=True, slots=True)
class _Score:
    name: str
    value: float
    interval: Interval


def compare(runs: list[RunFolder]) -> ComparisonTable:
    """Return the headline result of each run, in the given order."""
    return ComparisonTable([_comparison_row(run) for run in runs], _remarks(runs))


def _comparison_row(run: RunFolder) -> ComparisonRow:
    split = run.headline_split
    model, start = run.model_name, run.setting("weights") or "none"
    if split is None:
        return ComparisonRow(
            run.name, model, start, "not measured", None, None, [], None
        )
    result, file = run.results[split], result_file(split)
    field = _score_field(result)
    score = _score(run.name, result)
    return ComparisonRow(
        name=run.name,
        model=model,
        weights=start,
        split=split,
        n=count(result.n, pointer(file, "n")),
        number=share(score.value, pointer(file, field)),
        interval=interval(score.interval, pointer(file, f"{field}_interval")),
        bar=bar(score.interval, score.value),
    )


def _score_field(result: Classification | MultiLabel) -> str:
    return "top1" if isinstance(result, Classification) else "exact_match"


def _score(name: str, result: Classification | MultiLabel) -> _Score:
    if isinstance(result, Classification):
        return _Score(name, result.top1, result.top1_interval)
    return _Score(name, result.exact_match, result.exact_match_interval)


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
    scores = [_score(run.name, run.results[split]) for run, split in measured]
    scores.sort(key=lambda score: -score.value)
    best = scores[0]
    close = [
        score.name for score in scores[1:] if score.interval.high >= best.interval.low
    ]
    if not close:
        return [f"{best.name} is best, and no other interval overlaps its interval."]
    return [
        f"{best.name} has the highest number, but its interval overlaps that of "
        f"{' and '.join(close)}: from these intervals they cannot be told apart."
    ]
