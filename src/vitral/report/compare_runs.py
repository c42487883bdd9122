"""Table of several runs, with a remark on whether their intervals overlap.

A paired test on the same images says more than two intervals do: `vitral compare`.
"""

from dataclasses import dataclass
from typing import Any

from vitral.document import RunFolder, bar, count, pointer, result_file
from vitral.report.load_run import task_of
from vitral.tasks import Headline, Result
from vitral.tasks.measures import format_headline


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """Table on top of a report of several runs."""

    title: str
    """Title of the column of compared numbers."""
    lines: list[dict[str, Any]]
    remarks: list[str]


def compare(runs: list[RunFolder[Result]]) -> ComparisonTable:
    """Return the headline result of each run, in the given order."""
    titles = dict.fromkeys(
        task_of(run).reporter().compared or run.results[split].headline().name
        for run in runs
        if (split := run.headline_split) is not None
    )
    title = " or ".join(titles) or "result"
    lines = [_comparison_row(run) for run in runs]
    return ComparisonTable(title, lines, _remarks(runs))


def _comparison_row(run: RunFolder[Result]) -> dict[str, Any]:
    """Return a row of the template; its numbers are None without a result."""
    split = run.headline_split
    cells: dict[str, Any] = {"n": None, "number": None, "interval": [], "bar": None}
    if split is not None:
        result, file = run.results[split], result_file(split)
        headline = result.headline()
        number, limits = format_headline(headline, file)
        cells = {
            "n": count(result.n, pointer(file, "n")),
            "number": number,
            "interval": limits,
            "bar": None,
        }
        if limits and headline.is_share:
            value, ends = headline.require()
            cells["bar"] = bar(ends, value)
    return {
        "name": run.name,
        "model": run.model_name,
        "weights": run.setting("weights") or "none",
        "split": split or "not measured",
        **cells,
    }


def _remarks(runs: list[RunFolder[Result]]) -> list[str]:
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
    headlines = [(run.name, run.results[split].headline()) for run, split in measured]
    return [_rank(headlines)]


def _rank(headlines: list[tuple[str, Headline]]) -> str:
    """Return the sentence on the best run and on those that may be as good.

    Args:
        headlines: with the name of each run.
    """
    first = headlines[0][1]
    if any(headline.field != first.field for _, headline in headlines):
        return (
            "These runs were measured by different numbers, which cannot be compared."
        )
    if any(headline.interval is None for _, headline in headlines):
        return "A run has a number without an interval, so nothing is compared."
    sign = 1 if first.higher_is_better else -1
    scores = []
    for name, headline in headlines:
        value, (low, high) = headline.require()
        lower, upper = sorted((sign * low, sign * high))
        scores.append((sign * value, name, lower, upper))
    scores.sort(key=lambda score: -score[0])
    (_, best, limit, _), *others = scores
    close = [name for _, name, _, upper in others if upper >= limit]
    if not close:
        return f"{best} is best, and no other interval overlaps its interval."
    extreme = "highest" if first.higher_is_better else "lowest"
    return (
        f"{best} has the {extreme} number, but its interval overlaps that of "
        f"{' and '.join(close)}: from these intervals they cannot be told apart."
    )
