"""Checks and axes that the figures of a value over a size share."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import check_array
from vitral.plots.style import DOTTED, QUIET, add_gridlines, percent_formatter

Values = Float[np.ndarray, " points"]


def check_pairs(
    name: str, sizes: ArrayLike, values: ArrayLike, *, singular: str, plural: str
) -> tuple[Values, Values]:
    """Return the sizes and values of a curve as arrays.

    Raises:
        DataError: one of them cannot be drawn, or their lengths differ.
    """
    checked = check_array(sizes, f"the sizes of {name}", "S")
    measured = check_array(values, f"the {plural} of {name}", "S")
    if len(checked) != len(measured):
        raise DataError(
            f"{name} must have {singular} for each size: got {len(measured)}, not "
            f"{len(checked)}."
        )
    return checked, measured


def check_image_counts(sizes: Values) -> None:
    """Raise DataError unless every size is 1 image or more."""
    if sizes.min() < 1:
        raise DataError(f"a size must be 1 image or more: got {sizes.min():.3g}.")


def check_shares(name: str, values: Values) -> None:
    """Raise DataError unless every value lies in 0..1."""
    if values.min() < 0 or values.max() > 1:
        raise DataError(
            f"{name} must be shares in 0..1: got {values.min():.3g} to "
            f"{values.max():.3g}; divide percentages by 100."
        )


def mark_largest(axes: Axes, size: float) -> None:
    """Draw a dotted line at the largest size that was measured."""
    axes.axvline(size, color=QUIET, linewidth=0.9, linestyle=DOTTED)


def format_accuracy_axes(
    axes: Axes,
    title: str,
    ticks: LogLocator,
    *,
    margin: float,
    legend_alpha: float,
    pad: float | None = None,
) -> None:
    """Label the axes of accuracies over numbers of training images."""
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(percent_formatter())
    axes.set_xlabel("training images")
    axes.set_ylabel("test images right")
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
