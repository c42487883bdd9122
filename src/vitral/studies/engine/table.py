"""What came out of a study: accuracies by row, column and seed, and what they show.

Spread is the standard deviation over seeds, with n - 1. Two places are apart when
their means differ by more than the root of the sum of their variances: with three
seeds this is a rule of thumb that says "clearly more than noise", not a test.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class SeedResult(NamedTuple):
    """One counted trial."""

    seed: int
    accuracy: float
    """On test, 0..1."""
    val: float
    """On val, 0..1; what choices are made by."""
    choice: str
    """What won the choice on val; empty where there was none."""
    macs: int
    """Multiply-accumulates of one image."""
    parameters: int
    seconds: float
    """Of training and measuring; of all competitors where there was a choice."""


class CellStats(NamedTuple):
    """A place of the table over its seeds."""

    mean: float
    spread: float
    """Standard deviation; 0 for one seed."""
    seeds: int

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{100 * self.mean:.1f}"
        return f"{100 * self.mean:.1f} ± {100 * self.spread:.1f}"


class Difference(NamedTuple):
    """How far the first of two places is above the second."""

    value: float
    noise: float
    """Root of the sum of both variances over seeds."""

    @property
    def exceeds_noise(self) -> bool:
        """Whether the difference is more than the noise, in either direction."""
        return abs(self.value) > self.noise

    @property
    def is_ahead(self) -> bool:
        """Whether the first is above the second by more than the noise."""
        return self.value > self.noise

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points (spread {100 * self.noise:.1f})"


@dataclass(frozen=True)
class ResultTable:
    """Accuracies of a study."""

    results: Mapping[tuple[str, str], Sequence[SeedResult]]
    """By (row, column), in the study's order."""

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.results))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for _, column in self.results))

    def cell_stats(self, row: str, column: str = "") -> CellStats:
        """Mean and spread of a place."""
        accuracies = [one.accuracy for one in self.results[row, column]]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        return CellStats(statistics.fmean(accuracies), spread, len(accuracies))

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> Difference:
        """The first place's mean above the second's."""
        a, b = self.cell_stats(*first), self.cell_stats(*second)
        return Difference(a.mean - b.mean, math.hypot(a.spread, b.spread))

    def best_column(self, row: str) -> str:
        """The column of a row with the highest mean on val; the first of equals."""
        columns = [column for name, column in self.results if name == row]
        return max(
            columns,
            key=lambda column: sum(run.val for run in self.results[row, column]),
        )

    def pretraining_gain_sentence(self, start: str, zero: str) -> str:
        """A sentence on what beginning with `start` brings over `zero`, both rows."""
        gap = self.difference((start, ""), (zero, ""))
        if gap.is_ahead:
            return f"Pre-training pays ({start}): {gap} over from zero."
        if gap.exceeds_noise:
            return f"Pre-training harms here ({start}): {gap}."
        return f"Pre-training ({start}) is not apart from zero: {gap}."

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain data for JSON: one entry for each place."""
        return [
            {
                "row": row,
                "column": column,
                **self.cell_stats(row, column)._asdict(),
                "runs": [one._asdict() for one in runs],
            }
            for (row, column), runs in self.results.items()
        ]
