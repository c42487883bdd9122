"""Similarity of the tokens of a network over depth (arXiv 2103.03404)."""

from collections.abc import Mapping
from typing import Any

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
    DASHED,
    INK,
    QUIET,
    SERIES_MARKERS,
    SKY,
    WARM,
    Plot,
    add_gridlines,
    pluralize,
    shorten,
    single_axes,
)

FLOAT64 = float(np.finfo(np.float64).eps)
_COLORS = (ACCENT, CONTRAST, WARM, SKY, INK, QUIET)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.4)),
    (0, (6, 2, 1, 2)),
)


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
    with single_axes(6.6, 3.7) as (figure, axes):
        axes.set_yscale("log")
        _draw(axes, drawn)
        axes.set_ylim(low / edge, high * edge)
        if high / low < 1e3:
            axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_format_power))
        if near:
            axes.axhspan(low / edge / 10, floor, color="#eceff3", zorder=0)
            axes.axhline(floor, color=QUIET, linewidth=1, linestyle=DASHED)
            axes.annotate(
                f"rounding, below {floor:.1e}",
                (0.01, floor),
                xycoords=("axes fraction", "data"),
                xytext=(0, -11),
                textcoords="offset points",
                ha="left",
                color=QUIET,
                fontsize=8,
            )
        axes.set_ylabel("residual norm / norm of the tokens")
        _format_axes(axes, title, max(map(len, lines.values())))
    return Plot(
        figure, f"{shorten(title, 60)}, relative residual. {_describe_ends(lines)}"
    )


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
        if abs(line).max() > 1.001:
            raise DataError(
                f"a cosine must lie in -1..1: {shorten(label)} has {line.min():.3g} to "
                f"{line.max():.3g}."
            )
    least = min(float(line.min()) for line in lines.values())
    with single_axes(6.6, 3.5) as (figure, axes):
        _draw(axes, lines)
        axes.set_ylim(-1.04 if least < -0.5 else min(-0.04, least - 0.06), 1.04)
        axes.set_ylabel("mean cosine between tokens")
        _format_axes(axes, title, max(map(len, lines.values())))
    return Plot(figure, f"{shorten(title, 60)}, mean cosine. {_describe_ends(lines)}")


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


def _draw(axes: Axes, lines: Mapping[str, Float[np.ndarray, " points"]]) -> None:
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


def _format_axes(axes: Axes, title: str, points: int) -> None:
    axes.set_xlabel("layers passed")
    axes.set_xlim(-0.4, points - 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(13, integer=True))
    axes.set_title(shorten(title, 60))
    add_gridlines(axes, "y")
    axes.tick_params(which="minor", length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _describe_ends(lines: Mapping[str, Float[np.ndarray, " points"]]) -> str:
    return " ".join(
        f"{shorten(label, 60)}: from {line[0]:.2g} to {line[-1]:.2g} after "
        f"{pluralize(len(line) - 1, 'layer')}."
        for label, line in lines.items()
    )
