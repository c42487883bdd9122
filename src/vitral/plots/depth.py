"""Values of the layers over depth: attention distance, similarity of the tokens.

After arXiv 2010.11929, figures 7 right and 11 (distance), and arXiv 2103.03404 (rank).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import check_array, check_range
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DASHED,
    INK,
    QUIET,
    SERIES_COLORS,
    SERIES_MARKERS,
    Plot,
    add_gridlines,
    annotate,
    label_axes,
    percent_formatter,
    pluralize,
    shorten,
    single_axes,
    style_context,
)

FLOAT64 = float(np.finfo(np.float64).eps)
_COLORS = (*SERIES_COLORS[:4], INK, QUIET)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))


@style_context()
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
    figure, axes = single_axes(5.4, 3.7)
    top = max(float(pixels.max()), uniform or 0.0, 1e-9) * 1.06
    axes.set_ylim(0, top)
    _draw_heads(axes, pixels, uniform)
    axes.set_title(title, pad=28)
    if image_height is not None:
        share = axes.twinx()
        label = f"share of the image height ({image_height} px)"
        share.set(ylim=(0, top / image_height), ylabel=label)
        share.yaxis.set_major_locator(MaxNLocator(6))
        share.yaxis.set_major_formatter(percent_formatter())
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


def _draw_heads(
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
    axes.set(xlim=(-0.6, num_layers - 0.4), xlabel="layer, from 0")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
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


@style_context()
def rank_curves(
    curves: Mapping[str, ArrayLike],
    *,
    floor: float = FLOAT64,
    title: str = "Distance from rank one",
) -> Plot:
    """Draw the relative residual of the tokens over depth, on a log scale.

    Args:
        curves: {label: [layers + 1]}, the norm of the residual over the norm of the
            tokens, before the first layer and after each.
        floor: machine epsilon of the computation's dtype; values below are rounding. A
            value of 0 is drawn at a tenth of it.

    Raises:
        DataError: there is no curve, or a value below 0.
    """
    lines = _check_curves(curves)
    for label, line in lines.items():
        if line.min() < 0:
            raise DataError(
                f"a relative residual cannot be below 0: {shorten(label)} has "
                f"{line.min():.3g}."
            )
    drawn = {k: np.where(v > 0, v, floor / 10) for k, v in lines.items()}
    low = min(float(line.min()) for line in drawn.values())
    high = max(float(line.max()) for line in drawn.values())
    near = low < 1e4 * floor
    if near:
        low, high = min(low, floor / 10), max(high, 10 * floor)
    edge = max((high / low) ** 0.05, 1.1)
    figure, axes = single_axes(6.6, 3.7)
    axes.set_yscale("log")
    title = shorten(title, 60)
    _draw_curves(axes, drawn, title, "residual norm / norm of the tokens")
    axes.set_ylim(low / edge, high * edge)
    if high / low < 1e3:
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_format_power))
    if near:
        axes.axhspan(low / edge / 10, floor, color="#eceff3", zorder=0)
        axes.axhline(floor, color=QUIET, linewidth=1, linestyle=DASHED)
        coords = ("axes fraction", "data")
        style: dict[str, Any] = {"xycoords": coords, "color": QUIET, "fontsize": 8}
        annotate(axes, f"rounding, below {floor:.1e}", (0.01, floor), (0, -11), **style)
    return Plot(figure, f"{title}, relative residual. {_describe_ends(lines)}")


@style_context()
def similarity_curves(
    curves: Mapping[str, ArrayLike], *, title: str = "Similarity of the tokens"
) -> Plot:
    """Draw the mean cosine between tokens over depth.

    Args:
        curves: {label: [layers + 1]}, cosines before the first layer and after each.

    Raises:
        DataError: there is no curve, or a value outside of -1..1.
    """
    lines = _check_curves(curves)
    for label, line in lines.items():
        claim = f"a cosine must lie in -1..1: {shorten(label)} has"
        check_range(line, (-1, 1), claim, tolerance=1e-3)
    least = min(float(line.min()) for line in lines.values())
    title = shorten(title, 60)
    figure, axes = single_axes(6.6, 3.5)
    _draw_curves(axes, lines, title, "mean cosine between tokens")
    axes.set_ylim(-1.04 if least < -0.5 else min(-0.04, least - 0.06), 1.04)
    return Plot(figure, f"{title}, mean cosine. {_describe_ends(lines)}")


def _check_curves(
    curves: Mapping[str, ArrayLike],
) -> dict[str, Float[np.ndarray, " points"]]:
    if not curves:
        raise DataError("there is no curve to draw: give {label: [layers + 1]}.")
    return {
        label: check_array(line, f"the curve {shorten(label)}", "layers + 1")
        for label, line in curves.items()
    }


def _format_power(value: float, _: int) -> str:
    """Return `0.02`, and from 0.001 down `10⁻³`: mathematical type is switched off."""
    exponent = round(np.log10(value))
    if exponent > -3 or not np.isclose(value, 10.0**exponent, atol=0):
        return f"{value:g}"
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def _draw_curves(
    axes: Axes,
    lines: Mapping[str, Float[np.ndarray, " points"]],
    title: str,
    unit: str,
) -> None:
    for i, (label, line) in enumerate(lines.items()):
        axes.plot(
            np.arange(len(line)),
            line,
            color=_COLORS[i % len(_COLORS)],
            marker=SERIES_MARKERS[i % len(SERIES_MARKERS)],
            linestyle=_DASHES[i % len(_DASHES)],
            markersize=4,
            label=shorten(label, 34),
        )
    axes.set_xlim(-0.4, max(map(len, lines.values())) - 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(13, integer=True))
    label_axes(axes, title, "layers passed", unit, grid="y")
    axes.tick_params(which="minor", length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _describe_ends(lines: Mapping[str, Float[np.ndarray, " points"]]) -> str:
    return " ".join(
        f"{shorten(label, 60)}: from {line[0]:.2g} to {line[-1]:.2g} after "
        f"{pluralize(len(line) - 1, 'layer')}."
        for label, line in lines.items()
    )
