"""Costs over the size of the input: lines on two logarithmic axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import check_pairs
from vitral.plots.style import (
    DASHED,
    QUIET,
    SERIES_COLORS,
    SERIES_MARKERS,
    Plot,
    add_verdict,
    label_axes,
    new_figure,
    shorten,
    style_context,
)

MOST_PANELS = 4
LONGEST_KEY = 40


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Costs measured at some sizes of the input."""

    sizes: ArrayLike
    """[S], above 0 and rising: frames, pixels."""
    costs: ArrayLike
    """[S], above 0."""


@dataclass(frozen=True, slots=True)
class CostPanel:
    """One cost, or one ratio of costs."""

    title: str
    unit: str
    """Label of the axis, such as "MiB"."""
    lines: Mapping[str, CostCurve]
    """By name; a name has the same colour in every panel."""
    level: float | None = None
    """Value of a dashed line, such as the 1 of ratios. None: no line."""


_PanelCurves = Mapping[str, Float[np.ndarray, "2 sizes"]]


@style_context()
def cost_growth(panels: Sequence[CostPanel], *, axis: str, verdict: str = "") -> Plot:
    """Draw costs over the size of the input, a panel each, side by side.

    Args:
        axis: name of the sizes, such as "frames of the clip".
        verdict: a sentence under the figure.

    Raises:
        DataError: nothing or too many to draw, lengths that differ, sizes that do not
            rise from above 0, or a cost that is not above 0.
    """
    if not 1 <= len(panels) <= MOST_PANELS:
        raise DataError(
            f"a figure of growth has 1 to {MOST_PANELS} panels: got {len(panels)}."
        )
    drawn = [_validate_panel(panel) for panel in panels]
    names = list(dict.fromkeys(name for lines in drawn for name in lines))
    if len(names) > len(SERIES_COLORS):
        raise DataError(
            f"a figure of growth shows at most {len(SERIES_COLORS)} names: got "
            f"{len(names)}."
        )
    axis, verdict = shorten(axis, 40), shorten(verdict, 400)
    figure = new_figure(max(3.2 * len(panels), 5.6), 3.7)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel, lines in zip(all_axes, panels, drawn, strict=True):
        _draw(axes, panel, lines, names)
        label_axes(
            axes, shorten(panel.title, 60), axis, shorten(panel.unit, 30), grid="y"
        )
    handles = {
        label: line
        for axes in all_axes
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [shorten(name, LONGEST_KEY) for name in names]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper left",
        ncols=len(names) if len(panels) > 2 else min(len(names), 3),
    )
    add_verdict(figure, verdict, 400, 42 * len(panels))
    descriptions = [
        f"{shorten(panel.title, 60)} ({shorten(panel.unit, 30)}), {axis} "
        + ", ".join(
            f"{shorten(name, LONGEST_KEY)} {_format_number(line[1, 0])} at "
            f"{_format_number(line[0, 0])} and {_format_number(line[1, -1])} at "
            f"{_format_number(line[0, -1])}"
            for name, line in lines.items()
        )
        for panel, lines in zip(panels, drawn, strict=True)
    ]
    return Plot(figure, f"{'; '.join(descriptions)}. {verdict}".strip())


def _validate_panel(panel: CostPanel) -> _PanelCurves:
    if not panel.lines:
        raise DataError(f"there is no line to draw: `{shorten(panel.title, 60)}`.")
    lines = {}
    for name, line in panel.lines.items():
        sizes, costs = check_pairs(
            name, line.sizes, line.costs, singular="a cost", plural="costs"
        )
        if sizes[0] <= 0 or (np.diff(sizes) <= 0).any():
            raise DataError(
                f"the sizes of {name} must rise from above 0: got "
                f"{', '.join(_format_number(size) for size in sizes)}."
            )
        if costs.min() <= 0:
            raise DataError(
                f"a cost on a logarithmic axis must be above 0: {name} has "
                f"{costs.min():.3g}."
            )
        lines[name] = np.stack([sizes, costs])
    return lines


def _draw(
    axes: Axes, panel: CostPanel, lines: _PanelCurves, names: Sequence[str]
) -> None:
    axes.set(xscale="log", yscale="log")
    for name, (sizes, costs) in lines.items():
        index = names.index(name)
        axes.plot(
            sizes,
            costs,
            SERIES_MARKERS[index],
            linestyle="-",
            color=SERIES_COLORS[index],
            ms=4.5,
            label=shorten(name, LONGEST_KEY),
        )
    if panel.level is not None:
        axes.axhline(panel.level, color=QUIET, linewidth=0.9, linestyle=DASHED)
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high / low < 300 else (1, 3) if high / low < 3000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(10, subs=subs, numticks=14))
    measured = sorted({float(size) for line in lines.values() for size in line[0]})
    axes.xaxis.set_major_locator(FixedLocator(measured))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: _format_number(value)))


def _format_number(value: float) -> str:
    """Return three digits, and no exponent where people write none."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
