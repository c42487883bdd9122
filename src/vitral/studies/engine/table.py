"""Result table of a study: accuracies by row, column and seed.

Spread is the standard deviation over seeds, with n - 1. Two cells differ if their means
differ by more than the root of the summed variances: a rule of thumb, not a test.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SeedResult:
    """Result of one trial, or of the best of several."""

    seed: int
    accuracy: float
    """On test, 0..1."""
    val: float
    """On val, 0..1; decides between choices."""
    choice: str
    """The best on val of several; empty for none."""
    macs: int
    """Multiply-accumulates per image."""
    parameters: int
    seconds: float
    """Seconds of training and measuring, of all choices together."""


@dataclass(frozen=True, slots=True)
class CellStats:
    """Mean and spread of a cell over its seeds."""

    mean: float
    spread: float
    """Standard deviation; 0 for one seed."""
    seeds: int

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{100 * self.mean:.1f}"
        return f"{100 * self.mean:.1f} ± {100 * self.spread:.1f}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of the means of two cells, the first minus the second."""

    value: float
    noise: float
    """Root of the sum of both variances over seeds."""

    @property
    def exceeds_noise(self) -> bool:
        """Return whether either is ahead by more than the noise."""
        return abs(self.value) > self.noise

    @property
    def is_ahead(self) -> bool:
        """Return whether the first is ahead by more than the noise."""
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
        """Return mean and spread of a cell."""
        accuracies = [run.accuracy for run in self.results[row, column]]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        return CellStats(statistics.fmean(accuracies), spread, len(accuracies))

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> Difference:
        """Return the first cell's mean minus the second's."""
        a, b = self.cell_stats(*first), self.cell_stats(*second)
        return Difference(a.mean - b.mean, math.hypot(a.spread, b.spread))

    def best_column(self, row: str) -> str:
        """Return the column with the highest mean on val; the first of equals."""
        columns = [column for name, column in self.results if name == row]
        return max(
            columns,
            key=lambda column: sum(run.val for run in self.results[row, column]),
        )

    def pretraining_gain_sentence(self, start: str, zero: str) -> str:
        """Return a sentence on the gain of row `start` over row `zero`."""
        gap = self.difference((start, ""), (zero, ""))
        if gap.is_ahead:
            return f"Pre-training pays ({start}): {gap} over from zero."
        if gap.exceeds_noise:
            return f"Pre-training harms here ({start}): {gap}."
        return f"Pre-training ({start}) is not apart from zero: {gap}."

    def to_dict(self) -> list[dict[str, Any]]:
        """Return plain data for JSON: one entry per cell."""
        return [
            {
                "row": row,
                "column": column,
                **asdict(self.cell_stats(row, column)),
                "runs": [asdict(run) for run in runs],
            }
            for (row, column), runs in self.results.items()
        ]
