"""Result table of a study: accuracies by row, column and seed.

Spread is the standard deviation over seeds, with n - 1. Two cells differ if their means
differ by more than the root of the summed variances: a rule of thumb, not a test.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
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

    def choose(self, ahead: str, behind: str, level: str) -> str:
        """Return a text: the first is ahead, behind, or within the noise."""
        return ahead if self.is_ahead else behind if self.exceeds_noise else level

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points (spread {100 * self.noise:.1f})"


DifferenceFn = Callable[[str, str, int], Difference]
"""Difference of the first name to the second at a number of images."""


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


def describe_leaders(
    names: Sequence[str], sizes: Sequence[int], gap: DifferenceFn
) -> list[str]:
    """Return a sentence per name that compares it with the best at the largest size.

    Args:
        sizes: numbers of images, rising.
    """
    most = sizes[-1]
    best = names[0]
    for name in names[1:]:
        if gap(name, best, most).value > 0:
            best = name
    return [_describe_pair(best, other, sizes, gap) for other in names if other != best]


def _describe_pair(
    best: str, other: str, sizes: Sequence[int], gap: DifferenceFn
) -> str:
    gaps = {size: gap(best, other, size) for size in sizes}
    few, many = sizes[0], sizes[-1]
    first, last = gaps[few], gaps[many]
    behind = [size for size in sizes if (-gaps[size].value) > gaps[size].noise]
    ahead = [size for size in sizes if gaps[size].is_ahead]
    if behind and last.is_ahead:
        after = min(size for size in ahead if size > max(behind))
        return (
            f"The order turns: with {few:,} images {best} is at {first} against "
            f"{other}, with {many:,} at {last}; it is behind up to {max(behind):,} and "
            f"ahead from {after:,}."
        )
    if len(ahead) == len(sizes):
        return (
            f"{best} is ahead of {other} at every size: {first} with {few:,} images, "
            f"{last} with {many:,}."
        )
    if last.is_ahead:
        return (
            f"{best} is ahead of {other} with {many:,} images ({last}); with {few:,} "
            f"they cannot be told apart ({first})."
            if few not in ahead
            else f"{best} is ahead of {other} with {few:,} images ({first}) and with "
            f"{many:,} ({last}), but not clearly at every size between."
        )
    start = f"{best} and {other} cannot be told apart with {many:,} images ({last})"
    if few in behind:
        return f"{start}; with {few:,} {other} is ahead ({first})."
    if few in ahead:
        return f"{start}; with {few:,} {best} is ahead ({first})."
    return f"{start}, nor with {few:,} ({first})."
