"""Accuracy over time of every way to run a model, with the chosen one marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from vitral.errors import DataError
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DASHED,
    INK,
    QUIET,
    SERIES_MARKERS,
    SKY,
    WARM,
    Plot,
    add_gridlines,
    annotate,
    format_percent,
    percent_formatter,
    single_axes,
    style_context,
)

COLORS = (QUIET, SKY, ACCENT, WARM, CONTRAST)
MIN_ACCURACY_SPAN = 0.02
"""Least range of the accuracies: a difference of one image must not fill the figure."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One way to run a model."""

    ms: float
    """Milliseconds an image."""
    accuracy: float
    """A share."""
    label: str
    """Written next to the point; empty: no label."""
    chosen: bool = False
    open: bool = False
    """Drawn as an outline."""


@style_context()
def operating_points(
    groups: Mapping[str, Sequence[OperatingPoint]],
    *,
    title: str = "Accuracy over time",
    note: str = "",
    bound: float | None = None,
) -> Plot:
    """Draw a mark for each point, a colour for each group, a ring around chosen points.

    Args:
        groups: by name, at most five.
        note: a line under the axis, such as whose images these are.
        bound: lowest accuracy that was allowed, as a dashed line. None: no line.

    Raises:
        DataError: nothing or too many groups to draw.
    """
    if not 1 <= len(groups) <= len(COLORS):
        raise DataError(
            f"a figure of operating points shows 1 to {len(COLORS)} groups: got "
            f"{len(groups)}. Draw them in several figures."
        )
    figure, axes = single_axes(7.6, 4.6)
    for (name, points), color, marker in zip(
        groups.items(), COLORS, SERIES_MARKERS, strict=False
    ):
        _scatter(axes, name, points, color=color, marker=marker)
    if bound is not None:
        axes.axhline(bound, color=QUIET, linestyle=DASHED, linewidth=1)
    every_point = [point for points in groups.values() for point in points]
    _set_scales(axes, every_point, bound)
    _place_labels(figure, axes, every_point)
    axes.set_title(title, pad=30)
    x = "milliseconds an image" + (f"\n{note}" if note else "")
    axes.set(xlabel=x, ylabel="accuracy")
    add_gridlines(axes, "y")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=len(groups),
        handletextpad=0.1,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    return Plot(figure, _alt_text(groups))


def _scatter(
    axes: Axes,
    name: str,
    points: Sequence[OperatingPoint],
    *,
    color: str,
    marker: str,
) -> None:
    # Without points, so that the legend shows a filled mark.
    axes.scatter([], [], color=color, marker=marker, s=34, label=name)
    for point in points:
        face = "none" if point.open else color
        style: dict[str, Any] = {"edgecolors": color, "linewidths": 1.4, "zorder": 3}
        xy = [point.ms], [point.accuracy]
        axes.scatter(*xy, facecolors=face, marker=marker, s=34, **style)
        if point.chosen:
            axes.scatter(*xy, s=170, facecolors="none", edgecolors=INK, zorder=4)


def _set_scales(
    axes: Axes, points: Sequence[OperatingPoint], bound: float | None
) -> None:
    """Scale both axes with room for the labels; time is logarithmic."""
    times = [point.ms for point in points]
    heights = [point.accuracy for point in points]
    heights += [] if bound is None else [bound]
    middle = (max(heights) + min(heights)) / 2
    span = max(max(heights) - min(heights), MIN_ACCURACY_SPAN)
    axes.set_ylim(middle - 0.65 * span, middle + 0.7 * span)
    axes.set_xscale("log")
    low, high = min(times), max(times)
    # At least half a decade, so that the axis has numbers.
    room = max(1.15, (3.2 / (high / low)) ** 0.5)
    axes.set_xlim(low / room, high * room)
    ticks = [
        digit * 10.0**power
        for power in range(-4, 7)
        for digit in (1, 2, 5)
        if low / room <= digit * 10.0**power <= high * room
    ]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.yaxis.set_major_formatter(percent_formatter(decimals=1))


def _place_labels(figure: Figure, axes: Axes, points: Sequence[OperatingPoint]) -> None:
    """Write names next to their points, above or below so that none overlap."""
    named = [point for point in points if point.label]
    figure.draw_without_rendering()
    right = axes.get_window_extent().x1
    dot = figure.dpi / 72  # pixels of a typographic point
    boxes: list[tuple[float, float, float]] = []
    for point in sorted(named, key=lambda point: (not point.chosen, point.ms)):
        x, y = axes.transData.transform((point.ms, point.accuracy))
        width = 4.9 * len(point.label) * dot
        side = "right" if x + width > right else "left"
        start = x - width if side == "right" else x
        for rise in (11, -17, 23, -29, 35, -41):
            height = y + rise * dot
            if all(
                abs(height - y_box) > 11 * dot or start > x1 or start + width < x0
                for x0, x1, y_box in boxes
            ):
                break
        boxes.append((start, start + width, height))
        style = {"ha": side, "color": INK if point.chosen else QUIET, "zorder": 5}
        offset = (5 if side == "right" else -5, rise)
        xy = point.ms, point.accuracy
        annotate(axes, point.label, xy, offset, fontsize=8, **style)


def _alt_text(groups: Mapping[str, Sequence[OperatingPoint]]) -> str:
    points = [point for group in groups.values() for point in group]
    best = max(point.accuracy for point in points)
    fastest = min(point.ms for point in points)
    chosen = [
        f"{name}, {point.label}"
        for name, group in groups.items()
        for point in group
        if point.chosen
    ]
    choice = f"Chosen: {'; '.join(chosen)}." if chosen else "None was chosen."
    return (
        f"Accuracy over milliseconds an image for {len(points)} ways to run a model: "
        f"up to {format_percent(best)}, from {fastest:.2f} ms on. {choice}"
    )
