"""Figures of a classifier: recall with intervals, confusion, reliability."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from vitral.errors import DataError
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DASHED,
    FAINT,
    FULL_WIDTH,
    INK,
    NARROW_WIDTH,
    QUIET,
    SKY,
    Plot,
    add_gridlines,
    format_percent,
    label_axes,
    new_figure,
    percent_formatter,
    set_row_labels,
    shorten,
    single_axes,
    style_context,
)
from vitral.tasks.classification.calibration import Bin, ece
from vitral.tasks.classification.result import ClassRow

MOST_CLASSES = 30
MOST_CLASSES_WITH_COUNTS = 15
MOST_CONFUSIONS = 20
ROW_HEIGHT = 0.24  # inches a class
_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", SKY, ACCENT])


@style_context()
def confusion(
    matrix: Int[np.ndarray, "true predicted"],
    names: Sequence[str],
    *,
    narrow: bool = False,
) -> Plot:
    """Draw the confusion matrix; above 30 classes only the most frequent confusions.

    Args:
        matrix: counts at [true, predicted].
        names: class names, in the order of both axes.
        narrow: True to draw the confusions of many classes for a narrow page; a matrix
            stays as wide as it is.

    Raises:
        DataError: the matrix is not as large as the list of names.
    """
    if matrix.shape != (len(names), len(names)):
        raise DataError(
            f"a confusion matrix of {len(names)} classes must be {len(names)} x "
            f"{len(names)}: got {matrix.shape[0]} x {matrix.shape[1]}."
        )
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")
    worst = [
        (int(i), int(j))
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j] > 0
    ][:MOST_CONFUSIONS]
    if len(names) > MOST_CLASSES:
        return _top_confusions(wrong, worst, names, narrow=narrow)
    side = 1.7 + max(0.34 * len(names), 2.0)
    figure, axes = single_axes(min(side + 0.3, FULL_WIDTH), min(side, 8.6))
    _draw_matrix(axes, matrix, names)
    alt = f"Confusion matrix of {len(names)} classes, true in rows, answers in columns."
    if worst:
        i, j = worst[0]
        alt += (
            f" Most frequent confusion: {names[i]} taken for {names[j]}, "
            f"{wrong[i, j]} times."
        )
    else:
        alt += " No image was confused."
    return Plot(figure, alt)


def _draw_matrix(
    axes: Axes, matrix: Int[np.ndarray, "true predicted"], names: Sequence[str]
) -> None:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    edge = "white" if len(names) <= MOST_CLASSES_WITH_COUNTS else FAINT
    axes.pcolormesh(share, cmap=_SHADES, vmin=0, vmax=1, edgecolors=edge, linewidth=0.6)
    if len(names) <= MOST_CLASSES_WITH_COUNTS:
        for (i, j), count in np.ndenumerate(matrix):
            off = i != j and count > 0
            color = CONTRAST if off else INK if count else FAINT
            axes.text(
                j + 0.5,
                i + 0.5,
                str(count) if count else "·",
                ha="center",
                va="center",
                fontsize=8.5,
                fontweight="bold" if off else "normal",
                color="white" if share[i, j] > 0.55 else color,
            )
    centers = np.arange(len(names)) + 0.5
    labels = [shorten(name, 18) for name in names]
    upright = max(map(len, labels)) > 4 and len(names) > 3
    axes.set_xticks(centers, labels, rotation=90 if upright else 0)
    axes.set_yticks(centers, labels)
    axes.tick_params(length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    title = "Confusion (shade: share of the row)"
    axes.set(title=title, xlabel="predicted", ylabel="true")


def _top_confusions(
    wrong: Int[np.ndarray, "true predicted"],
    worst: Sequence[tuple[int, int]],
    names: Sequence[str],
    *,
    narrow: bool,
) -> Plot:
    height = max(1.1 + ROW_HEIGHT * len(worst), 1.6)
    figure, axes = single_axes(NARROW_WIDTH if narrow else FULL_WIDTH, height)
    counts = [int(wrong[pair]) for pair in worst]
    bars = axes.barh(np.arange(len(worst)), counts, color=ACCENT, height=0.62)
    axes.bar_label(bars, [str(count) for count in counts], padding=4, fontsize=8.5)
    pairs = [f"{shorten(names[i])}  →  {shorten(names[j])}" for i, j in worst]
    set_row_labels(axes, pairs)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, max([*counts, 1]) * 1.08)
    title = "Most frequent confusions (true → predicted)"
    title = title.replace(" (", "\n(") if narrow else title
    title = title if worst else "No image was confused"
    label_axes(axes, title, "images", grid="x")
    alt = f"Most frequent confusions of {len(names)} classes."
    if worst:
        (i, j), count = worst[0], wrong[worst[0]]
        alt += f" First: {names[i]} taken for {names[j]}, {count} times."
    return Plot(figure, alt)


@style_context()
def reliability(bins: Sequence[Bin]) -> Plot:
    """Draw the accuracy over confidence, and the images in each bin.

    Raises:
        DataError: every bin is empty.
    """
    error = ece(bins)
    filled = [row for row in bins if row.count]
    centers = [(row.low + row.high) / 2 for row in filled]
    accuracies = [row.accuracy or 0.0 for row in filled]
    confidences = [row.confidence or 0.0 for row in filled]
    width = 0.9 * (bins[0].high - bins[0].low)
    figure = new_figure(3.8, 4.1)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    upper.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=DASHED)
    upper.bar(centers, accuracies, width, color=SKY)
    upper.vlines(confidences, accuracies, confidences, color=CONTRAST, linewidth=1.4)
    upper.plot(confidences, accuracies, "o", color=ACCENT, markersize=4.5)
    upper.set(title=f"Reliability (ECE {error:.3f})", ylabel="images right")
    upper.set_ylim(0, 1.02)
    upper.yaxis.set_major_formatter(percent_formatter())
    lower.bar(centers, [row.count for row in filled], width, color=ACCENT)
    lower.set(xlim=(0, 1), xlabel="confidence of the answer", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    lower.xaxis.set_major_formatter(percent_formatter())
    for axes in (upper, lower):
        add_gridlines(axes, "y")
    total = sum(row.count for row in filled)
    return Plot(
        figure,
        f"Reliability diagram of {total} images: accuracy over confidence in "
        f"{len(filled)} bins, expected calibration error {error:.3f}.",
    )


@style_context()
def per_class(rows: Sequence[ClassRow]) -> Plot:
    """Draw the recall of each class with its interval; above 30 the 30 lowest.

    Raises:
        DataError: no class has an example.
    """
    measured = [row for row in rows if row.recall is not None]
    if not measured:
        raise DataError("there is no recall to draw: no class has an example.")
    shown = sorted(measured, key=lambda row: row.recall or 0.0)[:MOST_CLASSES]
    figure, axes = single_axes(FULL_WIDTH, 1.15 + ROW_HEIGHT * max(len(shown), 3))
    ys = np.arange(len(shown))
    low = [row.recall_interval.low for row in shown]
    high = [row.recall_interval.high for row in shown]
    axes.hlines(ys, low, high, color=SKY, linewidth=5)
    axes.plot([row.recall or 0.0 for row in shown], ys, "o", color=ACCENT, ms=5.5)
    set_row_labels(axes, [f"{shorten(row.name)}  ({row.support})" for row in shown])
    axes.set_xlim(np.floor(10 * min(low)) / 10 - 0.01, 1.01)
    axes.xaxis.set_major_formatter(percent_formatter())
    part = "" if len(shown) == len(measured) else f", the {len(shown)} lowest"
    title = f"Recall per class (number of images){part}"
    x = "images of the class that are right; bar: 95 % interval"
    label_axes(axes, title, x, grid="x")
    first = shown[0]
    return Plot(
        figure,
        f"Recall of {len(shown)} classes with 95 % intervals. Lowest: {first.name} "
        f"with {format_percent(first.recall or 0.0)} of {first.support} images.",
    )
