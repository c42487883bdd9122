"""How the accuracy of several models grows with the number of training images."""

from collections.abc import Mapping
from textwrap import fill
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import check_array
from vitral.plots.scaling import FittedCurve, validate_curve
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    QUIET,
    SKY,
    WARM,
    Plot,
    add_gridlines,
    format_percent,
    new_figure,
    percent_formatter,
    shorten,
    style_context,
)

COLORS = (ACCENT, CONTRAST, WARM, SKY, QUIET)
MARKS = ("o", "s", "^", "D", "v")
LONGEST_KEY = 40


class DataSizeSeries(NamedTuple):
    """One model's measurements, and its curve where there is one."""

    sizes: ArrayLike
    """[S], training images; a size comes once for each draw or seed."""
    accuracies: ArrayLike
    """[S], shares."""
    curve: FittedCurve | None = None
    """Its band is drawn beyond the largest size measured only."""


def data_size_curves(
    series_by_name: Mapping[str, DataSizeSeries],
    *,
    verdict: str = "",
    title: str = "Accuracy over the number of training images",
) -> Plot:
    """One curve for each model, on a logarithmic axis of sizes.

    Small dots are measurements, large marks their means; without a fitted curve the
    means are joined.

    Args:
        series_by_name: by name, at most five.
        verdict: a sentence under the figure.

    Raises:
        DataError: nothing or too many to draw, lengths that differ, a size below 1, or
            an accuracy that is not a share.
    """
    if not 1 <= len(series_by_name) <= len(COLORS):
        raise DataError(
            f"a figure of data sizes shows 1 to {len(COLORS)} models: got "
            f"{len(series_by_name)}. Draw them in several figures."
        )
    series = {name: _validate_series(name, one) for name, one in series_by_name.items()}
    fits = {
        name: validate_curve(one.curve)
        for name, one in series_by_name.items()
        if one.curve is not None
    }
    largest = max(float(sizes.max()) for sizes, _ in series.values())
    with style_context():
        figure = new_figure(6.8, 4.3)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for i, (name, points) in enumerate(series.items()):
            _draw(axes, i, shorten(name, LONGEST_KEY), points, fits.get(name))
        if any(fit[0, -1] > largest for fit in fits.values()):
            axes.axvline(largest, color=QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
            axes.annotate(
                "measured | predicted",
                (largest, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=QUIET,
            )
        _format_axes(axes, shorten(title, 70))
        if verdict:
            text = fill(shorten(verdict, 400), 88)
            figure.supxlabel(text, x=0.015, ha="left", fontsize=9, color=QUIET)
    told = [
        f"{shorten(name, LONGEST_KEY)} from "
        f"{format_percent(_mean(points, points[0].min()))} to "
        f"{format_percent(_mean(points, points[0].max()))}"
        for name, points in series.items()
    ]
    return Plot(
        figure,
        f"{shorten(title, 70)}: {'; '.join(told)}. {shorten(verdict, 400)}".strip(),
    )


_Points = tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]


def _mean(points: _Points, size: float) -> float:
    sizes, right = points
    return float(right[sizes == size].mean())


def _validate_series(name: str, series: DataSizeSeries) -> _Points:
    sizes = check_array(series.sizes, f"the sizes of {name}", "S")
    right = check_array(series.accuracies, f"the accuracies of {name}", "S")
    if len(sizes) != len(right):
        raise DataError(
            f"{name} must have an accuracy for each size: got {len(right)}, not "
            f"{len(sizes)}."
        )
    if sizes.min() < 1:
        raise DataError(f"a size must be 1 image or more: got {sizes.min():.3g}.")
    if right.min() < 0 or right.max() > 1:
        raise DataError(
            f"accuracies must be shares in 0..1: got {right.min():.3g} to "
            f"{right.max():.3g}; divide percentages by 100."
        )
    return sizes, right


def _draw(
    axes: Axes,
    index: int,
    name: str,
    points: _Points,
    fit: Float[np.ndarray, "4 along"] | None,
) -> None:
    sizes, right = points
    colour, mark = COLORS[index], MARKS[index]
    axes.plot(sizes, right, ".", color=colour, ms=4, alpha=0.35, mew=0)
    there = np.unique(sizes)
    means = [float(right[sizes == size].mean()) for size in there]
    joined = "-" if fit is None else ""
    axes.plot(
        there, means, mark, linestyle=joined, color=colour, ms=5.5, label=name, zorder=3
    )
    if fit is None:
        return
    inside = fit[0] <= there[-1] * (1 + 1e-9)
    axes.plot(fit[0, inside], fit[1, inside], color=colour, linewidth=1.3)
    beyond = fit[0] >= there[-1] * (1 - 1e-9)
    if beyond.sum() > 1:
        far, middle, low, high = fit[:, beyond]
        axes.fill_between(far, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(far, middle, color=colour, linestyle=(0, (3, 2)), linewidth=1.3)


def _format_axes(axes: Axes, title: str) -> None:
    low, high = axes.get_xlim()
    # A long axis has no room for three labels a decade.
    subs = (1, 2, 5) if high / low < 200 else (1, 3)
    axes.xaxis.set_major_locator(LogLocator(10, subs=subs, numticks=14))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(percent_formatter())
    axes.set_xlabel("training images")
    axes.set_ylabel("test images right")
    axes.set_title(title, pad=16)
    axes.margins(x=0.04)
    axes.legend(
        loc="lower right",
        frameon=True,
        facecolor="white",
        edgecolor="none",
        framealpha=0.9,
    )
    add_gridlines(axes, "y")
