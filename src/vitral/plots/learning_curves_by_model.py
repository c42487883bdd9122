"""Accuracy of several models over the number of training images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import (
    Values,
    check_image_counts,
    check_pairs,
    check_shares,
    format_accuracy_axes,
    mark_largest,
)
from vitral.plots.scaling import FittedCurve, validate_curve
from vitral.plots.style import (
    QUIET,
    SERIES_COLORS,
    SERIES_MARKERS,
    SHORT_DASHES,
    Plot,
    add_verdict,
    format_percent,
    shorten,
    single_axes,
)

COLORS = SERIES_COLORS[:5]
LONGEST_KEY = 40
_Points = tuple[Values, Values]


@dataclass(frozen=True, slots=True)
class DataSizeSeries:
    """Measurements of one model, and a fitted curve if there is one."""

    sizes: ArrayLike
    """[S], training images; a size occurs once for each draw or seed."""
    accuracies: ArrayLike
    """[S], shares."""
    curve: FittedCurve | None = None
    """Its band is drawn beyond the largest measured size only."""


def data_size_curves(
    series_by_name: Mapping[str, DataSizeSeries],
    *,
    verdict: str = "",
    title: str = "Accuracy over the number of training images",
) -> Plot:
    """Draw one curve for each model, on a logarithmic axis of sizes.

    Small dots are measurements and large marks their means. Lines join the means of a
    model without a fitted curve.

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
    points_by_name = {
        name: _validate_series(name, series) for name, series in series_by_name.items()
    }
    fits = {
        name: validate_curve(series.curve)
        for name, series in series_by_name.items()
        if series.curve is not None
    }
    largest = max(float(sizes.max()) for sizes, _ in points_by_name.values())
    title, verdict = shorten(title, 70), shorten(verdict, 400)
    with single_axes(6.8, 4.3) as (figure, axes):
        axes.set_xscale("log")
        for i, (name, points) in enumerate(points_by_name.items()):
            label = shorten(name, LONGEST_KEY)
            _draw(axes, i, points, fits.get(name), label=label)
        if any(fit[0, -1] > largest for fit in fits.values()):
            mark_largest(axes, largest)
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
        low, high = axes.get_xlim()
        # A long axis has no room for three labels a decade.
        subs = (1, 2, 5) if high / low < 200 else (1, 3)
        ticks = LogLocator(10, subs=subs, numticks=14)
        format_accuracy_axes(
            axes, title, ticks, margin=0.04, legend_alpha=0.9, pad=16.0
        )
        add_verdict(figure, verdict, 400, 88)
    ranges = [
        f"{shorten(name, LONGEST_KEY)} from "
        f"{format_percent(_mean(points, points[0].min()))} to "
        f"{format_percent(_mean(points, points[0].max()))}"
        for name, points in points_by_name.items()
    ]
    return Plot(figure, f"{title}: {'; '.join(ranges)}. {verdict}".strip())


def _mean(points: _Points, size: float) -> float:
    sizes, right = points
    return float(right[sizes == size].mean())


def _validate_series(name: str, series: DataSizeSeries) -> _Points:
    sizes, right = check_pairs(
        name,
        series.sizes,
        series.accuracies,
        singular="an accuracy",
        plural="accuracies",
    )
    check_image_counts(sizes)
    check_shares("accuracies", right)
    return sizes, right


def _draw(
    axes: Axes,
    index: int,
    points: _Points,
    fit: Float[np.ndarray, "4 along"] | None,
    *,
    label: str,
) -> None:
    sizes, right = points
    color = COLORS[index]
    axes.plot(sizes, right, ".", color=color, ms=4, alpha=0.35, mew=0)
    measured = np.unique(sizes)
    axes.plot(
        measured,
        [_mean(points, size) for size in measured],
        SERIES_MARKERS[index],
        linestyle="-" if fit is None else "",
        color=color,
        ms=5.5,
        label=label,
        zorder=3,
    )
    if fit is None:
        return
    inside = fit[0] <= measured[-1] * (1 + 1e-9)
    axes.plot(fit[0, inside], fit[1, inside], color=color, linewidth=1.3)
    beyond = fit[0] >= measured[-1] * (1 - 1e-9)
    if beyond.sum() > 1:
        far, middle, low, high = fit[:, beyond]
        axes.fill_between(far, low, high, color=color, alpha=0.16, linewidth=0)
        axes.plot(far, middle, color=color, linestyle=SHORT_DASHES, linewidth=1.3)
