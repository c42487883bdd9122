"""Accuracy over time: every way to run a model, and the one to take."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import PercentFormatter

from vitral.errors import DataError
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    INK,
    PERCENT,
    QUIET,
    SKY,
    WARM,
    Plot,
    grid,
    look,
    new_figure,
    percent,
)

COLOURS = (QUIET, SKY, ACCENT, WARM, CONTRAST)
MARKS = ("o", "s", "^", "D", "v")


class Measured(NamedTuple):
    """One way to run a model."""

    ms: float
    """Milliseconds an image."""
    accuracy: float
    """A share."""
    label: str
    """Written beside it; empty for none."""
    chosen: bool = False


def operating_points(
    groups: Mapping[str, Sequence[Measured]],
    *,
    title: str = "Accuracy over time",
    note: str = "",
) -> Plot:
    """One mark for each point, one colour for each group; the chosen one is ringed.

    Args:
        groups: by name, at most five.
        note: a line under the axis, such as whose images these are.

    Raises:
        DataError: nothing or too many groups to draw.
    """
    if not 1 <= len(groups) <= len(COLOURS):
        raise DataError(
            f"a figure of operating points shows 1 to {len(COLOURS)} groups: got "
            f"{len(groups)}. Draw them in several figures."
        )
    told = []
    with look():
        figure = new_figure(7.6, 4.4)
        axes = figure.subplots()
        for (name, points), colour, mark in zip(
            groups.items(), COLOURS, MARKS, strict=False
        ):
            axes.scatter(
                [point.ms for point in points],
                [point.accuracy for point in points],
                color=colour,
                marker=mark,
                s=34,
                label=name,
                zorder=3,
            )
            for point in points:
                if point.chosen:
                    told.append(f"{name}, {point.label}")
                    axes.scatter(
                        [point.ms],
                        [point.accuracy],
                        s=150,
                        facecolors="none",
                        edgecolors=INK,
                        zorder=4,
                    )
                if point.label:
                    axes.annotate(
                        point.label,
                        (point.ms, point.accuracy),
                        xytext=(0, 9),
                        textcoords="offset points",
                        ha="center",
                        fontsize=8,
                        color=INK if point.chosen else QUIET,
                    )
        axes.set_title(title)
        axes.set_xlabel("milliseconds an image" + (f"\n{note}" if note else ""))
        axes.set_ylabel("accuracy")
        tenths = PercentFormatter(1.0, decimals=1, symbol=PERCENT)
        axes.yaxis.set_major_formatter(tenths)
        axes.set_xlim(left=0)
        axes.margins(y=0.2)
        grid(axes, "y")
        axes.legend(loc="lower right")
    return Plot(figure, _told(groups, told))


def _told(groups: Mapping[str, Sequence[Measured]], chosen: Sequence[str]) -> str:
    points = [point for group in groups.values() for point in group]
    best = max(point.accuracy for point in points)
    fastest = min(point.ms for point in points)
    taken = f"Chosen: {'; '.join(chosen)}." if chosen else "None was chosen."
    return (
        f"Accuracy over milliseconds an image for {len(points)} ways to run a model: "
        f"up to {percent(best)}, from {fastest:.2f} ms on. {taken}"
    )
