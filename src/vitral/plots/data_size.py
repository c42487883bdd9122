"""Accuracy of one or several models over the number of training images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import (
    Values,
    check_array,
    check_consistent_length,
    check_pairs,
    check_range,
)
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DOTTED,
    QUIET,
    SERIES_COLORS,
    SERIES_MARKERS,
    SHORT_DASHES,
    WARM,
    Plot,
    add_gridlines,
    add_verdict,
    annotate,
    format_percent,
    percent_formatter,
    shorten,
    single_axes,
    style_context,
)

COLORS = SERIES_COLORS[:5]
LONGEST_KEY = 40
_Points = tuple[Values, Values]
_Fit = Float[np.ndarray, "4 along"]


@dataclass(frozen=True, slots=True)
class FittedCurve:
    """A curve through the measured points and beyond, with its band.

    All are [C]: rising sizes in images, then shares: the accuracy, and its least and
    greatest plausible values.
    """

    sizes: ArrayLike
    accuracy: ArrayLike
    low: ArrayLike
    high: ArrayLike


@dataclass(frozen=True, slots=True)
class DataSizeSeries:
    """Measurements of one model, and a fitted curve if there is one."""

    sizes: ArrayLike
    """[S], training images; a size occurs once for each draw or seed."""
    accuracies: ArrayLike
    """[S], shares."""
    curve: FittedCurve | None = None
    """Its band is drawn beyond the largest measured size only."""


@style_context()
def data_size_curve(
    sizes: ArrayLike,
    accuracies: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    curve: FittedCurve | None = None,
    verdict: str = "",
    title: str = "Accuracy over the number of training images",
) -> Plot:
    """Draw the data-size curve, on a logarithmic axis of sizes.

    Args:
        sizes: [S], training images; a size may occur more than once.
        accuracies: [S], shares.
        low, high: [S], the interval of each.
        curve: the fit; beyond the largest size measured it is dashed.
        verdict: a sentence under the figure, such as "Flat: twice the images bring
            less than 0.2 points."

    Raises:
        DataError: lengths that differ, a size below 1, or an accuracy that is not a
            share or not inside its interval.
    """
    images = check_array(sizes, "the sizes", "S")
    right, least, greatest = (
        _check_rows(values, name, images, "be one for each size", "S")
        for values, name in [
            (accuracies, "the accuracies"),
            (low, "the lower ends"),
            (high, "the upper ends"),
        ]
    )
    _check_intervals(images, right, least, greatest)
    fit = None if curve is None else _check_curve(curve)
    largest = float(images.max())
    title, verdict = shorten(title, 60), shorten(verdict, 300)
    figure, axes = single_axes(6.4, 4.0)
    axes.set_xscale("log")
    if fit is not None:
        _draw_fit(axes, fit, largest)
    axes.vlines(images, least, greatest, color=ACCENT, linewidth=1.6)
    axes.plot(images, right, "o", color=ACCENT, ms=5.5, label="measured, with interval")
    ticks = LogLocator(10, subs=(1, 2, 5), numticks=12)
    _format_axes(axes, title, ticks, margin=0.06, legend_alpha=1.0)
    add_verdict(figure, verdict, 300, 80)
    best = int(images.argmax())
    alt = (
        f"{title}: {format_percent(float(right[images.argmin()]))} with "
        f"{images.min():.0f} images, {format_percent(float(right[best]))} with "
        f"{largest:.0f}."
    )
    if fit is not None and fit[0, -1] > largest:
        expected, low_end, high_end = (
            format_percent(float(end)) for end in fit[1:, -1]
        )
        alt += (
            f" The fitted curve expects {expected} ({low_end} to {high_end}) with "
            f"{fit[0, -1]:.0f}."
        )
    return Plot(figure, f"{alt} {verdict}".strip())


@style_context()
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
        name: _check_series(name, series) for name, series in series_by_name.items()
    }
    fits = {
        name: _check_curve(series.curve)
        for name, series in series_by_name.items()
        if series.curve is not None
    }
    largest = max(float(sizes.max()) for sizes, _ in points_by_name.values())
    title, verdict = shorten(title, 70), shorten(verdict, 400)
    figure, axes = single_axes(6.8, 4.3)
    axes.set_xscale("log")
    for i, (name, points) in enumerate(points_by_name.items()):
        _draw_series(axes, i, points, fits.get(name), label=shorten(name, LONGEST_KEY))
    if any(fit[0, -1] > largest for fit in fits.values()):
        _mark_largest(axes, largest)
        point, coords = (largest, 1.0), ("data", "axes fraction")
        style = {"xycoords": coords, "ha": "center", "fontsize": 8, "color": QUIET}
        annotate(axes, "measured | predicted", point, (0, 2), **style)
    low, high = axes.get_xlim()
    # A long axis has no room for three labels a decade.
    ticks = LogLocator(10, subs=(1, 2, 5) if high / low < 200 else (1, 3), numticks=14)
    _format_axes(axes, title, ticks, margin=0.04, legend_alpha=0.9, pad=16.0)
    add_verdict(figure, verdict, 400, 88)
    ranges = [
        f"{shorten(name, LONGEST_KEY)} from "
        f"{format_percent(_mean(points, points[0].min()))} to "
        f"{format_percent(_mean(points, points[0].max()))}"
        for name, points in points_by_name.items()
    ]
    return Plot(figure, f"{title}: {'; '.join(ranges)}. {verdict}".strip())


def _check_rows(
    values: ArrayLike, name: str, sizes: Values, one: str, axis: str
) -> Values:
    array = check_array(values, name, axis)
    check_consistent_length(name, len(array), len(sizes), one)
    return array


def _check_sizes_and_shares(
    sizes: Values, shares: Float[np.ndarray, " shares"], name: str
) -> None:
    if sizes.min() < 1:
        raise DataError(f"a size must be 1 image or more: got {sizes.min():.3g}.")
    hint = "; divide percentages by 100"
    check_range(shares, (0, 1), f"{name} must be shares in 0..1: got", hint)


def _check_intervals(
    images: Values, right: Values, least: Values, greatest: Values
) -> None:
    shares = np.concatenate([right, least, greatest])
    _check_sizes_and_shares(images, shares, "accuracies and intervals")
    outside = (right < least) | (right > greatest)
    if outside.any():
        i = int(outside.argmax())
        raise DataError(
            f"an accuracy must lie in its interval: {right[i]:.4f} with "
            f"{images[i]:.0f} images is outside of {least[i]:.4f} to {greatest[i]:.4f}."
        )


def _check_series(name: str, series: DataSizeSeries) -> _Points:
    one, several = "an accuracy", "accuracies"
    sizes, right = check_pairs(
        name, series.sizes, series.accuracies, singular=one, plural=several
    )
    _check_sizes_and_shares(sizes, right, several)
    return sizes, right


def _check_curve(curve: FittedCurve) -> _Fit:
    """Return the four rows of a curve, or raise DataError if they cannot be drawn."""
    sizes = check_array(curve.sizes, "the sizes of the curve", "C")
    one = "be one for each of its sizes"
    rows = [
        _check_rows(getattr(curve, name), f"`{name}` of the curve", sizes, one, "C")
        for name in ("accuracy", "low", "high")
    ]
    if len(sizes) < 2 or (np.diff(sizes) <= 0).any() or sizes[0] <= 0:
        raise DataError(
            "the sizes of the curve must rise from above 0, two of them at least."
        )
    return np.stack([sizes, *rows])


def _mean(points: _Points, size: float) -> float:
    sizes, right = points
    return float(right[sizes == size].mean())


def _mark_largest(axes: Axes, size: float) -> None:
    """Draw a dotted line at the largest size that was measured."""
    axes.axvline(size, color=QUIET, linewidth=0.9, linestyle=DOTTED)


def _draw_fit(axes: Axes, fit: _Fit, largest: float) -> None:
    sizes, middle, low, high = fit
    axes.fill_between(
        sizes, low, high, color=WARM, alpha=0.22, linewidth=0, label="plausible range"
    )
    axes.plot(sizes, middle, color=CONTRAST, linestyle=SHORT_DASHES, linewidth=1.4)
    inside = sizes <= largest
    axes.plot(sizes[inside], middle[inside], color=CONTRAST, label="fitted curve")
    if sizes[-1] > largest:
        _mark_largest(axes, largest)
        axes.plot(sizes[-1:], middle[-1:], "D", color=CONTRAST, ms=5, mfc="white")
        text, point = format_percent(float(middle[-1])), (sizes[-1], middle[-1])
        style = {"ha": "right", "color": CONTRAST, "fontsize": 8.5}
        annotate(axes, text, point, (0, -14), **style)


def _draw_series(
    axes: Axes, index: int, points: _Points, fit: _Fit | None, *, label: str
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


def _format_axes(
    axes: Axes,
    title: str,
    ticks: LogLocator,
    *,
    margin: float,
    legend_alpha: float,
    pad: float | None = None,
) -> None:
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(percent_formatter())
    axes.set(xlabel="training images", ylabel="test images right")
    axes.set_title(title, pad=pad)
    axes.margins(x=margin)
    axes.legend(
        loc="lower right",
        frameon=True,
        facecolor="white",
        edgecolor="none",
        framealpha=legend_alpha,
    )
    add_gridlines(axes, "y")
