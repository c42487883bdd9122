"""Faithfulness of maps to the model: deletion, insertion, randomised weights.

Deletion and insertion: arXiv 1806.07421. Randomisation: arXiv 1810.03292.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.primitives import (
    Values,
    check_array,
    check_consistent_length,
    check_range,
)
from vitral.plots.style import (
    ACCENT,
    DASHED,
    FULL_WIDTH,
    INK,
    QUIET,
    SERIES_COLORS,
    SERIES_MARKERS,
    SKY,
    Plot,
    add_gridlines,
    label_axes,
    new_figure,
    percent_formatter,
    pluralize,
    set_row_labels,
    shorten,
    single_axes,
    style_context,
)

_COLORS = (*SERIES_COLORS[:4], INK)
_MARKERS = SERIES_MARKERS[:5]
_Scores = Float[np.ndarray, "images steps"]


@style_context()
def faithfulness_curves(
    shares: ArrayLike,
    deletion: Mapping[str, ArrayLike],
    insertion: Mapping[str, ArrayLike],
    *,
    baseline: str = "random order",
    title: str = "Faithfulness of the maps",
) -> Plot:
    """Draw the score of the class while patches are removed and added in map order.

    Args:
        shares: [S], the share of the patches changed, rising.
        deletion: {name: [S] or [B, S]}, scores; several images are averaged and their
            middle half is a band. The area under the mean is in the legend.
        insertion: the same while patches are added.
        baseline: name of the curve that is drawn as the reference.

    Raises:
        DataError: shares that do not rise, no scores, or scores of another length.
    """
    steps = check_array(shares, "the shares", "S")
    if len(steps) < 2 or (np.diff(steps) <= 0).any():
        raise DataError(
            f"the shares must rise, two of them at least: got {np.round(steps, 4)}."
        )
    parts = {
        test: _check_scores(curves, steps)
        for test, curves in (("Deletion", deletion), ("Insertion", insertion))
        if curves
    }
    if not parts:
        raise DataError("there is no score to draw: deletion and insertion are empty.")
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    curve_names = [name for name in names if name != baseline]
    title = shorten(title, 80)
    figure = new_figure(FULL_WIDTH if len(parts) > 1 else 4.8, 3.6)
    x = 0.1 / figure.get_figwidth()
    figure.suptitle(title, x=x, ha="left", fontsize=10.5, fontweight="bold")
    all_axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, (test, scores) in zip(all_axes, parts.items(), strict=True):
        _draw(axes, steps, scores, curve_names)
        better = "lower" if test == "Deletion" else "higher"
        verb = "removed" if test == "Deletion" else "shown"
        axes.set_title(f"{test}: {better} is better", fontsize=9.5)
        axes.set_xlabel(f"patches {verb}, the map's greatest first")
    all_axes[0].set_ylabel("score of the class")
    areas = {
        test: [f"{shorten(k, 60)} {_area(steps, v):.3f}" for k, v in scores.items()]
        for test, scores in parts.items()
    }
    text = " ".join(f"{test}: {', '.join(row)}." for test, row in areas.items())
    images = max(len(v) for part in parts.values() for v in part.values())
    return Plot(
        figure,
        f"{title} of {pluralize(images, 'image')}, areas under the curves. {text}",
    )


def _check_scores(curves: Mapping[str, ArrayLike], steps: Values) -> dict[str, _Scores]:
    labels = {name: f"the scores of {shorten(name)}" for name in curves}
    return {
        name: _check_rows(values, labels[name], len(steps), "be one for each share")
        for name, values in curves.items()
    }


def _check_rows(values: ArrayLike, name: str, expected: int, one: str) -> _Scores:
    """Return [S] or [B, S] as [B, S]."""
    axes = ("B", "S") if np.ndim(values) > 1 else ("S",)
    rows = np.atleast_2d(check_array(values, name, *axes))
    check_consistent_length(name, rows.shape[1], expected, one)
    return rows


def _area(steps: Values, scores: _Scores) -> float:
    """Return the area under the mean curve by trapezoids, divided by the range."""
    return float(np.trapezoid(scores.mean(0), steps) / (steps[-1] - steps[0]))


def _draw(
    axes: Axes,
    steps: Values,
    scores: Mapping[str, _Scores],
    names: Sequence[str],
) -> None:
    """Draw the curves of `names` in colour, and the others as the reference."""
    for name, rows in scores.items():
        reference = name not in names
        i = 0 if reference else names.index(name)
        color = QUIET if reference else _COLORS[i % len(_COLORS)]
        axes.plot(
            steps,
            rows.mean(0),
            color=color,
            marker="" if reference else _MARKERS[i % len(_MARKERS)],
            markersize=3.5,
            markevery=max(len(steps) // 10, 1),
            linestyle=DASHED if reference else "-",
            label=f"{shorten(name)}, area {_area(steps, rows):.3f}",
        )
        if len(rows) > 1 and not reference:
            low, high = np.quantile(rows, [0.25, 0.75], axis=0)
            axes.fill_between(steps, low, high, color=color, alpha=0.13, linewidth=0)
    axes.margins(x=0.02)
    axes.xaxis.set_major_formatter(percent_formatter())
    axes.legend(loc="best")
    add_gridlines(axes, "y")


@style_context()
def randomization(
    stages: Sequence[str],
    correlations: ArrayLike,
    *,
    title: str = "Map against weights made random",
) -> Plot:
    """Draw the rank correlation of a map with itself as weights become random.

    A map whose correlation stays near 1 does not depend on what the model learned.

    Args:
        stages: part randomised at each step: "head", "blocks.11", ...
        correlations: [S] or [B, S], in -1..1; several images are averaged, with a dot
            for each.

    Raises:
        DataError: other numbers of stages and correlations, or values outside -1..1.
    """
    name, one = "the correlations", "be one for each stage"
    rows = _check_rows(correlations, name, len(stages), one)
    claim = "a rank correlation must lie in -1..1: got"
    check_range(rows, (-1, 1), claim, tolerance=1e-3)
    mean = rows.mean(0)
    ys = np.arange(len(stages))
    title = shorten(title, 60)
    figure, axes = single_axes(5.6, 1.2 + 0.24 * max(len(stages), 3))
    axes.barh(ys, mean, color=SKY, height=0.62, edgecolor=ACCENT, linewidth=0.8)
    if len(rows) > 1:
        axes.plot(rows.ravel(), np.tile(ys, len(rows)), "o", color=ACCENT, ms=2.5)
    axes.axvline(0, color=QUIET, linewidth=1)
    set_row_labels(axes, [shorten(stage) for stage in stages])
    axes.set_xlim(min(-0.25, float(rows.min()) - 0.05), 1.02)
    x = "rank correlation with the map of the trained weights"
    label_axes(axes, title, x, grid="x")
    return Plot(
        figure,
        f"{title}: rank correlation after each of {pluralize(len(stages), 'stage')}, "
        f"{mean[0]:.2f} after {shorten(stages[0], 60)}, {mean[-1]:.2f} after "
        f"{shorten(stages[-1], 60)}.",
    )
