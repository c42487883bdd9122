"""Faithfulness of maps to the model: deletion, insertion, randomised weights.

Deletion and insertion: arXiv 1806.07421. Randomisation: arXiv 1810.03292.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from vitral.errors import DataError
from vitral.plots.arrays import check_array
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DASHED,
    FULL_WIDTH,
    INK,
    QUIET,
    SERIES_MARKERS,
    SKY,
    WARM,
    Plot,
    add_gridlines,
    new_figure,
    percent_formatter,
    pluralize,
    set_row_labels,
    shorten,
    single_axes,
    style_context,
)

_COLORS = (ACCENT, CONTRAST, WARM, SKY, INK)
_MARKERS = SERIES_MARKERS[:5]


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
        "Deletion": _check_scores(deletion, steps),
        "Insertion": _check_scores(insertion, steps),
    }
    parts = {name: scores for name, scores in parts.items() if scores}
    if not parts:
        raise DataError("there is no score to draw: deletion and insertion are empty.")
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    curve_names = [name for name in names if name != baseline]
    title = shorten(title, 80)
    with style_context():
        figure = new_figure(FULL_WIDTH if len(parts) > 1 else 4.8, 3.6)
        figure.suptitle(
            title,
            x=0.1 / figure.get_figwidth(),
            ha="left",
            fontsize=10.5,
            fontweight="bold",
        )
        all_axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
        for axes, (test, scores) in zip(all_axes, parts.items(), strict=True):
            _draw(axes, steps, scores, curve_names)
            better = "lower" if test == "Deletion" else "higher"
            verb = "removed" if test == "Deletion" else "shown"
            axes.set_title(f"{test}: {better} is better", fontsize=9.5)
            axes.set_xlabel(f"patches {verb}, the map's greatest first")
        all_axes[0].set_ylabel("score of the class")
    text = " ".join(
        f"{test}: "
        + ", ".join(
            f"{shorten(k, 60)} {_area(steps, v):.3f}" for k, v in scores.items()
        )
        + "."
        for test, scores in parts.items()
    )
    images = max(len(v) for part in parts.values() for v in part.values())
    return Plot(
        figure,
        f"{title} of {pluralize(images, 'image')}, areas under the curves. {text}",
    )


def _check_scores(
    curves: Mapping[str, ArrayLike], steps: Float[np.ndarray, " steps"]
) -> dict[str, Float[np.ndarray, "images steps"]]:
    scores = {}
    for name, values in curves.items():
        several = np.ndim(values) > 1
        label = f"the scores of {shorten(name)}"
        rows = (
            check_array(values, label, "B", "S")
            if several
            else check_array(values, label, "S")[None]
        )
        if rows.shape[1] != len(steps):
            raise DataError(
                f"{label} must be one for each share: got {rows.shape[1]}, not "
                f"{len(steps)}."
            )
        scores[name] = rows
    return scores


def _area(
    steps: Float[np.ndarray, " steps"], scores: Float[np.ndarray, "images steps"]
) -> float:
    """Return the area under the mean curve by trapezoids, divided by the range."""
    return float(np.trapezoid(scores.mean(0), steps) / (steps[-1] - steps[0]))


def _draw(
    axes: Axes,
    steps: Float[np.ndarray, " steps"],
    scores: Mapping[str, Float[np.ndarray, "images steps"]],
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
    several = np.ndim(correlations) > 1
    axes_names = ("B", "S") if several else ("S",)
    rows = np.atleast_2d(check_array(correlations, "the correlations", *axes_names))
    if rows.shape[1] != len(stages):
        raise DataError(
            f"the correlations must be one for each stage: got {rows.shape[1]}, not "
            f"{len(stages)}."
        )
    if abs(rows).max() > 1.001:
        raise DataError(
            f"a rank correlation must lie in -1..1: got {rows.min():.3g} to "
            f"{rows.max():.3g}."
        )
    mean = rows.mean(0)
    ys = np.arange(len(stages))
    title = shorten(title, 60)
    with single_axes(5.6, 1.2 + 0.24 * max(len(stages), 3)) as (figure, axes):
        axes.barh(ys, mean, color=SKY, height=0.62, edgecolor=ACCENT, linewidth=0.8)
        if len(rows) > 1:
            axes.plot(rows.ravel(), np.tile(ys, len(rows)), "o", color=ACCENT, ms=2.5)
        axes.axvline(0, color=QUIET, linewidth=1)
        set_row_labels(axes, [shorten(stage) for stage in stages])
        axes.set_xlim(min(-0.25, float(rows.min()) - 0.05), 1.02)
        axes.set_xlabel("rank correlation with the map of the trained weights")
        axes.set_title(title)
        add_gridlines(axes, "x")
    return Plot(
        figure,
        f"{title}: rank correlation after each of {pluralize(len(stages), 'stage')}, "
        f"{mean[0]:.2f} after {shorten(stages[0], 60)}, {mean[-1]:.2f} after "
        f"{shorten(stages[-1], 60)}.",
    )
