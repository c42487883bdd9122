"""Compare several runs: a table of their results, and a test of every two of them.

Intervals of two runs may overlap although one is better on the same images, so the
images are paired. Runs of different images are not compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vitral.document import (
    Column,
    Row,
    RunFolder,
    Table,
    bar,
    count,
    pointer,
    result_file,
)
from vitral.evaluation.compare import format_p
from vitral.evaluation.paired import PairedTest, compare_pairs
from vitral.report.load_run import task_of
from vitral.tasks import Headline, Result
from vitral.tasks.measures import format_headline
from vitral.tasks.reporter import ImageScores

MOST_PAIRS = 45
"""Rows of the table of pairs; of more runs only the pairs of the best one are shown."""


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """Top of a page of several runs."""

    title: str
    """Title of the column of compared numbers."""
    lines: list[dict[str, Any]]
    remarks: list[str]
    pairs: list[Table] = field(default_factory=list)
    """Table of the tests of every two runs; empty where they are not compared."""


def compare(runs: list[RunFolder[Result]]) -> ComparisonTable:
    """Return the headline result of each run, in the given order, and their tests.

    Raises:
        ConfigError: a table of answers is damaged.
    """
    titles = dict.fromkeys(
        task_of(run).reporter().compared or run.results[split].headline().name
        for run in runs
        if (split := run.headline_split) is not None
    )
    title = " or ".join(titles) or "result"
    lines = [_comparison_row(run) for run in runs]
    measured = [run for run in runs if run.headline_split is not None]
    obstacle = _obstacle(measured)
    if obstacle:
        return ComparisonTable(title, lines, [obstacle])
    scores = [task_of(run).reporter().image_scores(run) for run in measured]
    paired = _pair(measured, scores)
    if isinstance(paired, str):
        return ComparisonTable(title, lines, [paired])
    tests = compare_pairs([own.values for own in paired])
    names = _names(measured)
    remarks = [*_remarks(names, paired, tests), _column_note(paired[0])]
    shown = tests
    if len(tests) > MOST_PAIRS:
        best = _best(paired)
        shown = tuple(test for test in tests if best in (test.first, test.second))
        remarks.append("The table has the pairs of the best run only.")
    split = measured[0].headline_split
    if any(split in run.selection_splits for run in measured):
        remarks.append(
            "These images also chose the model of a run, so its numbers are a little "
            "too good: test is what to quote."
        )
    return ComparisonTable(
        title, lines, remarks, [_pair_table(names, paired[0], shown)]
    )


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


def _obstacle(measured: Sequence[RunFolder[Result]]) -> str:
    """Return why measured runs cannot be compared; empty if they can."""
    if len(measured) < 2:
        return "Fewer than two of these runs have a result, so nothing is compared."
    splits = {run.headline_split for run in measured}
    prints = {(run.data or {}).get("fingerprint") for run in measured}
    if len(splits) > 1 or len(prints) > 1 or None in prints:
        return (
            "These runs were not measured on the same images (another split or another "
            "data fingerprint): their numbers cannot be compared."
        )
    headlines: list[Headline] = [
        run.results[run.headline_split or ""].headline() for run in measured
    ]
    if len({headline.field for headline in headlines}) > 1:
        return (
            "These runs were measured by different numbers, which cannot be compared."
        )
    return ""


def _pair(
    runs: Sequence[RunFolder[Result]], scores: Sequence[ImageScores | None]
) -> list[ImageScores] | str:
    """Return the scores in the order of the first run, or why they have no pairs."""
    names = _names(runs)
    known = [own for own in scores if own is not None]
    if len(known) < len(scores):
        name = names[scores.index(None)]
        return (
            f"{name} has no table with an answer to each image, so these runs are not "
            "tested in pairs. Their intervals alone cannot tell them apart: those of "
            "two runs may overlap although one is better on the same images."
        )
    first, *others = known
    truths = dict(zip(first.paths, first.truths, strict=True))
    paired = [first]
    for name, own in zip(names[1:], others, strict=True):
        if len(truths) < len(first.paths) or len(set(own.paths)) < len(own.paths):
            return "An image comes twice in a table, so nothing is compared."
        if dict(zip(own.paths, own.truths, strict=True)) != truths:
            return (
                f"{names[0]} and {name} were not measured on the same images with the "
                "same answers: their numbers cannot be compared."
            )
        places = {path: place for place, path in enumerate(own.paths)}
        order = [places[path] for path in first.paths]
        paired.append(
            replace(
                own, paths=first.paths, truths=first.truths, values=own.values[order]
            )
        )
    return paired


def _names(runs: Sequence[RunFolder[Result]]) -> list[str]:
    """Return the name of each folder, or its path where two have the same."""
    names = [run.name for run in runs]
    return [str(run.path) if names.count(run.name) > 1 else run.name for run in runs]


def _remarks(
    names: Sequence[str], scores: Sequence[ImageScores], tests: Sequence[PairedTest]
) -> list[str]:
    """Return the sentence on the best run and on those that may be as good."""
    best = _best(scores)
    worse: list[str] = []
    close: list[str] = []
    p: list[float] = []
    for test in tests:
        if best in (test.first, test.second):
            other = names[test.second if test.first == best else test.first]
            (worse if test.differs else close).append(other)
            if test.differs:
                p.append(test.p_corrected)
    n, shares = len(scores[0].values), scores[0].values.dtype == bool
    by = _test_name(shares, len(tests))
    lines = []
    if worse:
        lines.append(
            f"{names[best]} is better than {_listed(worse)} on the same {n:,} images "
            f"({by}, {format_p(max(p))})."
        )
    if close:
        more = f"{'It' if worse else names[best]} cannot be told apart from"
        lines.append(
            f"{more} {_listed(close)} on these {n:,} images"
            f"{'' if worse else f' ({by})'}. That does not mean equal: the table has "
            "how large the difference may be."
        )
    return [" ".join(lines).replace("p = ", "p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")]


def _column_note(scores: ImageScores) -> str:
    """Return how to read the table of pairs."""
    if scores.values.dtype == bool:
        return (
            "“Only first” and “only second” count the images that only one of the two "
            "has right; the difference is the second less the first."
        )
    return f"The difference is the {scores.name} of the second less that of the first."


def _best(scores: Sequence[ImageScores]) -> int:
    sign = 1 if scores[0].higher_is_better else -1
    return int(np.argmax([sign * own.values.mean() for own in scores]))


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _test_name(shares: bool, pairs: int) -> str:
    name = "McNemar's exact test" if shares else "paired bootstrap of the errors"
    return f"{name} with Holm's correction over {pairs} pairs" if pairs > 1 else name


def _pair_table(
    names: Sequence[str], scores: ImageScores, tests: Sequence[PairedTest]
) -> Table:
    """Return the table of tests: a row for every two runs."""
    shares = scores.values.dtype == bool
    titles = ["only first", "only second"] if shares else []
    titles += ["difference", "95 % interval"]
    titles += ["p, corrected" if len(tests) > 1 else "p"]
    rows = []
    for test in tests:
        cells = [f"{test.only_first:,}", f"{test.only_second:,}"] if shares else []
        low, high = test.interval
        cells += (
            [
                f"{100 * test.difference:+.1f} points",
                f"{100 * low:+.1f} to {100 * high:+.1f}",
            ]
            if shares
            else [f"{test.difference:+.3g}", f"{low:+.3g} to {high:+.3g}"]
        )
        second = (test.difference > 0) == scores.higher_is_better
        better = names[test.second if second else test.first]
        cells += [format_p(test.p_corrected), better if test.differs else "not shown"]
        row = [names[test.second], *cells]
        rows.append(Row(names[test.first], [[cell] for cell in row]))
    return Table(
        caption=f"Every two runs on the same {len(scores.values):,} images",
        corner="first",
        columns=[
            Column("second", "name"),
            *(Column(title, "text") for title in titles),
            Column("better", "name"),
        ],
        rows=rows,
        wide=True,
    )
