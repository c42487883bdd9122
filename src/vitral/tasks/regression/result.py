"""Result of a regression model's evaluation: dataclasses and their JSON form."""

from dataclasses import dataclass
from typing import Any, ClassVar

from vitral.evaluation import Interval
from vitral.tasks.regression.answer import HALF_WIDTH
from vitral.tasks.regression.measures import LEAST_NUMBERS, coverage_range
from vitral.tasks.result import FEW_IMAGES, Headline, Result


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors of numbers, with 95 % bootstrap intervals; None where undefined."""

    mae: float | None
    """Mean absolute error, in the units of the column."""
    mae_interval: Interval | None
    rmse: float | None
    """Root of the mean squared error."""
    rmse_interval: Interval | None
    r2: float | None
    """1 - squared error / variance; None where all numbers are equal."""
    r2_interval: Interval | None
    spearman: float | None
    """Correlation of the ranks; None where all numbers or all answers are equal."""
    spearman_interval: Interval | None
    baseline_mae: float | None
    """Mean absolute error of always answering the mean of train."""
    baseline_rmse: float | None


@dataclass(frozen=True, kw_only=True)
class NumberColumn(Errors):
    """Errors in one column."""

    name: str
    mean: float
    """Mean of train, the answer that the baseline always gives."""
    n: int
    """Examples with a number, unreadable ones included."""
    interval_half_width: float | None
    """Of the 90 % interval, fitted on val; None without, or if val has too few."""
    coverage: float | None
    """Share of the readable examples whose number lies in it; None on val itself."""
    coverage_interval: Interval | None
    """Wilson's 95 % interval."""
    interval_n: int | None = None
    """Numbers of val that the half width was fitted on; None if that is not known."""


@dataclass(frozen=True, kw_only=True)
class Regression(Errors, Result):
    """Result of one model on one split; each number is the mean over the columns."""

    KIND = "regression"

    n: int
    """All examples, unreadable ones included."""
    n_unreadable: int
    """Each counts with the error of always answering the mean of train."""
    loss: float
    """Mean squared error in units of the variance of train."""
    columns: tuple[NumberColumn, ...]

    def headline(self) -> Headline:
        """Return R2."""
        return Headline(
            field="r2",
            name="R2",
            value=self.r2,
            interval=self.r2_interval,
            is_share=False,
        )

    monitors: ClassVar[tuple[str, ...]] = ("loss", "r2", "mae", "rmse")

    def monitor_values(self) -> dict[str, float]:
        """Return loss, R2 and errors; an undefined R2 is taken by train's variance."""
        assert self.mae is not None
        assert self.rmse is not None
        return {
            "loss": self.loss,
            "r2": 1 - self.loss if self.r2 is None else self.r2,
            "mae": self.mae,
            "rmse": self.rmse,
        }

    def sentence(self, noun: str) -> str:
        """Return R2 and the absolute error, beside the mean of train."""
        return (
            f"R2 {_number(self.r2)}{_interval(self.r2_interval)} on {self.n} {noun}, "
            f"mean absolute error {_number(self.mae)}{_interval(self.mae_interval)}; "
            f"always answering the mean {_number(self.baseline_mae)}"
        )

    def lines(self, split: str) -> list[str]:
        """Return a line a column where there are several, and those on intervals."""
        lines = []
        if len(self.columns) > 1:
            lines.append(
                f"  {'column':20} {'values':>7} {'R2':>8} {'MAE':>9} {'RMSE':>9} "
                f"{'Spearman':>9} {'mean: MAE':>10}"
            )
            lines += [
                f"  {c.name[:20]:20} {c.n:7} {_number(c.r2):>8} {_number(c.mae):>9} "
                f"{_number(c.rmse):>9} {_number(c.spearman):>9} "
                f"{_number(c.baseline_mae):>10}"
                for c in self.columns
            ]
        return [*lines, *(line for c in self.columns for line in _interval_lines(c))]

    def calibration(self) -> dict[str, Any]:
        """Return the half widths of the intervals, one or None a column."""
        half_widths = [column.interval_half_width for column in self.columns]
        if all(half is None for half in half_widths):
            return {}
        return {HALF_WIDTH: half_widths}

    def fitted_lines(self) -> list[str]:
        """Return a line a column on its 90 % interval, and on few numbers behind it."""
        return [line for column in self.columns for line in _fitted(column)]


def _fitted(column: NumberColumn) -> list[str]:
    half, n = column.interval_half_width, column.interval_n
    if half is None:
        return (
            []
            if n is None
            else [
                f"no 90 % interval of {column.name}: val has {n} numbers of it, and "
                f"{LEAST_NUMBERS} are needed"
            ]
        )
    line = f"90 % interval of {column.name}: answer ± {half:.4g}, fitted on val"
    if n is None or n >= FEW_IMAGES:
        return [line]
    low, high = coverage_range(n)
    return [
        f"{line}: on {n} numbers only, so it may hold {100 * low:.0f} to "
        f"{100 * high:.0f} % of new ones"
    ]


def _interval_lines(column: NumberColumn) -> list[str]:
    share, interval = column.coverage, column.coverage_interval
    lines = _fitted(column)
    if share is None or interval is None:
        return lines
    return [
        f"{line}; it holds {100 * share:.1f} % of the numbers here (95 % interval "
        f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %)"
        for line in lines
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" (95 % interval {interval.low:.4g} to {interval.high:.4g})"
