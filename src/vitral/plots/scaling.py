"""How the accuracy grows with the number of training images."""

from textwrap import fill
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import check_array
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    QUIET,
    WARM,
    Plot,
    add_gridlines,
    format_percent,
    new_figure,
    percent_formatter,
    shorten,
    style_context,
)


class FittedCurve(NamedTuple):
    """A curve through the measured points and beyond, with its band.

    All are [C]: sizes in images, rising; the accuracy and its least and greatest
    plausible values as shares.
    """

    sizes: ArrayLike
    accuracy: ArrayLike
    low: ArrayLike
    high: ArrayLike


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
    """The data-size curve, on a logarithmic axis of sizes.

    Args:
        sizes: [S], training images; a size may come more than once.
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
        _check_per_size(values, name, images)
        for values, name in [
            (accuracies, "the accuracies"),
            (low, "the lower ends"),
            (high, "the upper ends"),
        ]
    )
    _check(images, right, least, greatest)
    fit = None if curve is None else validate_curve(curve)
    largest = float(images.max())
    with style_context():
        figure = new_figure(6.4, 4.0)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        if fit is not None:
            _draw_fit(axes, fit, largest)
        axes.vlines(images, least, greatest, color=ACCENT, linewidth=1.6)
        axes.plot(
            images, right, "o", color=ACCENT, ms=5.5, label="measured, with interval"
        )
        _format_axes(axes, shorten(title, 60))
        if verdict:
            figure.supxlabel(
                fill(shorten(verdict, 300), 80),
                x=0.015,
                ha="left",
                fontsize=9,
                color=QUIET,
            )
    best = int(images.argmax())
    alt = (
        f"{shorten(title, 60)}: {format_percent(float(right[images.argmin()]))} with "
        f"{images.min():.0f} images, {format_percent(float(right[best]))} with "
        f"{largest:.0f}."
    )
    if fit is not None and fit[0, -1] > largest:
        alt += (
            f" The fitted curve expects {format_percent(float(fit[1, -1]))} "
            f"({format_percent(float(fit[2, -1]))} to "
            f"{format_percent(float(fit[3, -1]))}) with "
            f"{fit[0, -1]:.0f}."
        )
    return Plot(figure, f"{alt} {shorten(verdict, 300)}".strip())


def _check_per_size(
    values: ArrayLike, name: str, images: Float[np.ndarray, " sizes"]
) -> Float[np.ndarray, " sizes"]:
    array = check_array(values, name, "S")
    if len(array) != len(images):
        raise DataError(
            f"{name} must be one for each size: got {len(array)}, not {len(images)}."
        )
    return array


def _check(
    images: Float[np.ndarray, " sizes"],
    right: Float[np.ndarray, " sizes"],
    least: Float[np.ndarray, " sizes"],
    greatest: Float[np.ndarray, " sizes"],
) -> None:
    if images.min() < 1:
        raise DataError(f"a size must be 1 image or more: got {images.min():.3g}.")
    every = np.concatenate([right, least, greatest])
    if every.min() < 0 or every.max() > 1:
        raise DataError(
            f"accuracies and intervals must be shares in 0..1: got {every.min():.3g} "
            f"to {every.max():.3g}; divide percentages by 100."
        )
    outside = (right < least) | (right > greatest)
    if outside.any():
        i = int(outside.argmax())
        raise DataError(
            f"an accuracy must lie in its interval: {right[i]:.4f} with "
            f"{images[i]:.0f} images is outside of {least[i]:.4f} to {greatest[i]:.4f}."
        )


def validate_curve(curve: FittedCurve) -> Float[np.ndarray, "4 points"]:
    """The four rows of a curve, if they can be drawn."""
    first = check_array(curve.sizes, "the sizes of the curve", "C")
    rows = [first]
    for name, values in zip(FittedCurve._fields[1:], curve[1:], strict=True):
        row = check_array(values, f"`{name}` of the curve", "C")
        if len(row) != len(first):
            raise DataError(
                f"`{name}` of the curve must be one for each of its sizes: got "
                f"{len(row)}, not {len(first)}."
            )
        rows.append(row)
    if len(first) < 2 or (np.diff(first) <= 0).any() or first[0] <= 0:
        raise DataError(
            "the sizes of the curve must rise from above 0, two of them at least."
        )
    return np.stack(rows)


def _draw_fit(axes: Axes, fit: Float[np.ndarray, "4 points"], largest: float) -> None:
    sizes, middle, low, high = fit
    axes.fill_between(
        sizes, low, high, color=WARM, alpha=0.22, linewidth=0, label="plausible range"
    )
    axes.plot(sizes, middle, color=CONTRAST, linestyle=(0, (3, 2)), linewidth=1.4)
    inside = sizes <= largest
    axes.plot(sizes[inside], middle[inside], color=CONTRAST, label="fitted curve")
    if sizes[-1] > largest:
        axes.axvline(largest, color=QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.plot(sizes[-1:], middle[-1:], "D", color=CONTRAST, ms=5, mfc="white")
        axes.annotate(
            format_percent(float(middle[-1])),
            (sizes[-1], middle[-1]),
            xytext=(0, -14),
            textcoords="offset points",
            ha="right",
            color=CONTRAST,
            fontsize=8.5,
        )


def _format_axes(axes: Axes, title: str) -> None:
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(percent_formatter())
    axes.set_xlabel("training images")
    axes.set_ylabel("test images right")
    axes.set_title(title)
    axes.margins(x=0.06)
    axes.legend(
        loc="lower right",
        frameon=True,
        facecolor="white",
        edgecolor="none",
        framealpha=1,
    )
    add_gridlines(axes, "y")
