"""Figure of the images per class and split."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vitral.errors import DataError
from vitral.plots.style import (
    ACCENT,
    FAINT,
    FULL_WIDTH,
    INK,
    NARROW_WIDTH,
    QUIET,
    SKY,
    WARM,
    Plot,
    label_axes,
    shorten,
    single_axes,
    style_context,
)

MOST_CLASSES = 30
ROW_HEIGHT = 0.24  # inches a class
_SPLIT_COLORS = (ACCENT, WARM, SKY, QUIET, FAINT)


@style_context()
def class_counts(
    counts: Mapping[str, Mapping[str, int]], *, narrow: bool = False
) -> Plot:
    """Draw the images per class and split; above 30 classes their sorted counts.

    Args:
        counts: {split: {class: number of images}}.
        narrow: True for a narrow page.

    Raises:
        DataError: there is no class.
    """
    names = list(dict.fromkeys(name for split in counts.values() for name in split))
    if not names:
        raise DataError("there is no class to count: every split is empty.")
    width = NARROW_WIDTH if narrow else FULL_WIDTH
    if len(names) > MOST_CLASSES:
        figure, axes = single_axes(width, 2.8)
        _draw_sorted_counts(axes, counts)
    else:
        figure, axes = single_axes(width, 1.25 + ROW_HEIGHT * max(len(names), 3))
        _draw_counts(axes, counts, names)
    axes.legend(
        loc="lower left" if narrow else "lower right",
        bbox_to_anchor=(0 if narrow else 1, 1),
        ncols=len(counts),
        borderpad=0.1,
    )
    if narrow:  # the title goes above the legend, not beside it
        axes.set_title(axes.get_title(loc="left"), pad=26)
    totals = ", ".join(
        f"{split} {sum(rows.values())}" for split, rows in counts.items()
    )
    return Plot(
        figure,
        f"Images per class in {len(names)} classes; sums over the classes: {totals}.",
    )


def _draw_sorted_counts(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    for split, color in zip(counts, _SPLIT_COLORS * 9, strict=False):
        sizes = sorted(counts[split].values(), reverse=True)
        ranks = np.arange(1, len(sizes) + 1)
        axes.step(ranks, sizes, where="mid", color=color, label=split)
    axes.set_ylim(bottom=0)
    x = "class, from the largest to the smallest"
    label_axes(axes, "Images per class", x, "images", grid="y")


def _draw_counts(
    axes: Axes, counts: Mapping[str, Mapping[str, int]], names: Sequence[str]
) -> None:
    left = np.zeros(len(names))
    rows = np.arange(len(names))
    for split, color in zip(counts, _SPLIT_COLORS * 9, strict=False):
        sizes = np.array([counts[split].get(name, 0) for name in names])
        axes.barh(rows, sizes, left=left, color=color, height=0.62, label=split)
        left = left + sizes
    axes.set_yticks(rows, [shorten(name) for name in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_axes(axes, "Images per class", "images", grid="x")
