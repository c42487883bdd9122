"""Figures of numbers: answers against the truth, and their errors."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from vitral.plots import Plot
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DASHED,
    QUIET,
    SKY,
    label_axes,
    shorten,
    single_axes,
    style_context,
)

Vector = Float[np.ndarray, " examples"]
SIDE = 4.1
"""Inches."""


@style_context()
def plot_scatter(
    truth: Vector, values: Vector, name: str, half_width: float | None = None
) -> Plot:
    """Draw the answer of each image over its number; a right answer is on the line.

    Args:
        half_width: of the interval around the line; None for none.
    """
    figure, axes = single_axes(SIDE, SIDE)
    ends = np.array([min(truth.min(), values.min()), max(truth.max(), values.max())])
    if half_width is not None:
        low, high = ends - half_width, ends + half_width
        axes.fill_between(ends, low, high, color=SKY, alpha=0.35, linewidth=0)
    axes.plot(ends, ends, color=QUIET, linewidth=1, linestyle=DASHED)
    _draw_points(axes, truth, values)
    title = f"{shorten(name)}: answer over truth"
    label_axes(axes, title, "truth", "answer", grid="y")
    band = "" if half_width is None else f", 90 % interval of ± {half_width:.4g}"
    return Plot(
        figure,
        f"Scatter of {len(truth)} images: answers from {values.min():.4g} to "
        f"{values.max():.4g} over numbers of {name} from {truth.min():.4g} to "
        f"{truth.max():.4g}{band}.",
    )


@style_context()
def plot_residuals(truth: Vector, values: Vector, name: str) -> Plot:
    """Draw the error of each image over its answer."""
    errors = values - truth
    figure, axes = single_axes(SIDE, SIDE)
    axes.axhline(0, color=QUIET, linewidth=1, linestyle=DASHED)
    axes.axhline(errors.mean(), color=CONTRAST, linewidth=1.2)
    _draw_points(axes, values, errors)
    title = f"{shorten(name)}: error over answer"
    label_axes(axes, title, "answer", "answer - truth", grid="y")
    return Plot(
        figure,
        f"Errors of {len(truth)} images over their answers: from {errors.min():.4g} to "
        f"{errors.max():.4g}, on average {errors.mean():.4g} (the line).",
    )


def _draw_points(axes: Axes, x: Vector, y: Vector) -> None:
    size = 4.5 if len(x) < 500 else 2.5
    axes.plot(x, y, "o", color=ACCENT, markersize=size, alpha=0.55, markeredgewidth=0)
