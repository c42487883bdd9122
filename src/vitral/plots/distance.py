"""Attention distance of heads over depth (arXiv 2010.11929, Figures 7 right and 11)."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import check_array
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DASHED,
    QUIET,
    Plot,
    add_gridlines,
    percent_formatter,
    pluralize,
    shorten,
    single_axes,
)


def distance(
    distances: ArrayLike,
    uniform: float | None = None,
    *,
    image_height: int | None = None,
    title: str = "Attention distance",
) -> Plot:
    """Draw the attention distance of each head over depth.

    Args:
        distances: [layers, heads], pixels.
        uniform: distance of uniform attention, in pixels. None: no line.
        image_height: adds an axis of shares of the image's height.

    Raises:
        DataError: not [layers, heads], or a distance below zero.
    """
    pixels = check_array(distances, "the distances", "layers", "heads")
    if pixels.min() < 0:
        raise DataError(f"a distance cannot be below 0 pixels: got {pixels.min():.3g}.")
    num_layers, num_heads = pixels.shape
    title = shorten(title, 60)
    with single_axes(5.4, 3.7) as (figure, axes):
        top = max(float(pixels.max()), uniform or 0.0, 1e-9) * 1.06
        axes.set_ylim(0, top)
        _draw(axes, pixels, uniform)
        axes.set_title(title, pad=28)
        if image_height is not None:
            share = axes.twinx()
            share.set_ylim(0, top / image_height)
            share.yaxis.set_major_locator(MaxNLocator(6))
            share.yaxis.set_major_formatter(percent_formatter())
            share.set_ylabel(f"share of the image height ({image_height} px)")
            share.tick_params(length=0)
    first, last = pixels[0], pixels[-1]
    alt = (
        f"{title} of {pluralize(num_heads, 'head')} in "
        f"{pluralize(num_layers, 'layer')}. Layer 0: {first.min():.1f} to "
        f"{first.max():.1f} pixels; layer {num_layers - 1}: {last.min():.1f} to "
        f"{last.max():.1f}, mean {last.mean():.1f}."
    )
    if uniform is not None:
        alt += f" Uniform attention would be {uniform:.1f}."
    return Plot(figure, alt)


def _draw(
    axes: Axes, pixels: Float[np.ndarray, "layers heads"], uniform: float | None
) -> None:
    num_layers, num_heads = pixels.shape
    layers = np.arange(num_layers)
    axes.plot(
        np.repeat(layers, num_heads),
        pixels.ravel(),
        "o",
        color=ACCENT,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        alpha=0.85,
        label="one head",
    )
    if num_heads > 1:
        axes.plot(
            layers, pixels.mean(axis=1), color=CONTRAST, label="mean of the heads"
        )
    if uniform is not None:
        axes.axhline(
            uniform,
            color=QUIET,
            linewidth=1.2,
            linestyle=DASHED,
            label=f"uniform attention: {uniform:.1f} px",
        )
    axes.set_xlim(-0.6, num_layers - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlabel("layer, from 0")
    axes.set_ylabel("mean attention distance (pixels)")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.01),
        ncols=3,
        borderpad=0.1,
        columnspacing=1.2,
        handletextpad=0.5,
    )
    add_gridlines(axes, "y")
