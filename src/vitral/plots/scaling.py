"""Accuracy of one model over the number of training images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import check_array
from vitral.plots.curves import (
    Values,
    check_image_counts,
    check_shares,
    format_accuracy_axes,
    mark_largest,
)
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    SHORT_DASHES,
    WARM,
    Plot,
    add_verdict,
    format_percent,
    shorten,
    single_axes,
)


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
    title, verdict = shorten(title, 60), shorten(verdict, 300)
    with single_axes(6.4, 4.0) as (figure, axes):
        axes.set_xscale("log")
        if fit is not None:
            _draw_fit(axes, fit, largest)
        axes.vlines(images, least, greatest, color=ACCENT, linewidth=1.6)
        axes.plot(
            images, right, "o", color=ACCENT, ms=5.5, label="measured, with interval"
        )
        ticks = LogLocator(10, subs=(1, 2, 5), numticks=12)
        format_accuracy_axes(axes, title, ticks, margin=0.06, legend_alpha=1.0)
        add_verdict(figure, verdict, 300, 80)
    best = int(images.argmax())
    alt = (
        f"{title}: {format_percent(float(right[images.argmin()]))} with "
        f"{images.min():.0f} images, {format_percent(float(right[best]))} with "
        f"{largest:.0f}."
    )
    if fit is not None and fit[0, -1] > largest:
        alt += (
            f" The fitted curve expects {format_percent(float(fit[1, -1]))} "
            f"({format_percent(float(fit[2, -1]))} to "
            f"{format_percent(float(fit[3, -1]))}) with {fit[0, -1]:.0f}."
        )
    return Plot(figure, f"{alt} {verdict}".strip())


def _check_per_size(values: ArrayLike, name: str, images: Values) -> Values:
    array = check_array(values, name, "S")
    if len(array) != len(images):
        raise DataError(
            f"{name} must be one for each size: got {len(array)}, not {len(images)}."
        )
    return array


def _check(images: Values, right: Values, least: Values, greatest: Values) -> None:
    check_image_counts(images)
    check_shares("accuracies and intervals", np.concatenate([right, least, greatest]))
    outside = (right < least) | (right > greatest)
    if outside.any():
        i = int(outside.argmax())
        raise DataError(
            f"an accuracy must lie in its interval: {right[i]:.4f} with "
            f"{images[i]:.0f} images is outside of {least[i]:.4f} to {greatest[i]:.4f}."
        )


def validate_curve(curve: FittedCurve) -> Float[np.ndarray, "4 points"]:
    """Return the four rows of a curve, or raise DataError if they cannot be drawn."""
    first = check_array(curve.sizes, "the sizes of the curve", "C")
    rows = [first]
    for name in ("accuracy", "low", "high"):
        row = check_array(getattr(curve, name), f"`{name}` of the curve", "C")
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
    axes.plot(sizes, middle, color=CONTRAST, linestyle=SHORT_DASHES, linewidth=1.4)
    inside = sizes <= largest
    axes.plot(sizes[inside], middle[inside], color=CONTRAST, label="fitted curve")
    if sizes[-1] > largest:
        mark_largest(axes, largest)
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
