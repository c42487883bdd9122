"""Pseudo-labels at a glance: what a teacher answered, what is kept, how much is right.

Counts per class before and after filter and balance, the histogram of confidence, and
the share of right answers by confidence where the true classes are known.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vitral.errors import DataError
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    FAINT,
    FULL_WIDTH,
    INK,
    QUIET,
    SKY,
    WARM,
    Plot,
    add_gridlines,
    new_figure,
    percent_formatter,
    shorten,
    style_context,
)

MOST_CLASSES = 30
CLASS_HEIGHT = 0.34  # inches a class
BINS = 20
ACCURACY_BINS = 10


def pseudo_labels(
    names: Sequence[str],
    predicted: Int[np.ndarray, " classes"],
    selected: Int[np.ndarray, " classes"],
    per_epoch: Int[np.ndarray, " classes"],
    confidence: Float[np.ndarray, " images"],
    used: Bool[np.ndarray, " images"],
    threshold: float,
    correct: Bool[np.ndarray, " images"] | None = None,
) -> Plot:
    """Counts on the left, confidence on the right.

    Args:
        predicted: images of each class by the teacher's answer.
        selected: those that are learned from.
        per_epoch: how many there are in an epoch, copies included.
        used: which images are learned from.
        correct: whether each answer is right; None where nobody knows.

    Raises:
        DataError: there is no image.
    """
    if not len(confidence):
        raise DataError("there is no answer to draw: no image was labelled.")
    with style_context():
        rows = min(len(names), MOST_CLASSES)
        height = max(3.4 if correct is None else 4.6, 1.3 + CLASS_HEIGHT * rows)
        figure = new_figure(FULL_WIDTH, height)
        layout = figure.add_gridspec(1 if correct is None else 2, 2, wspace=0.06)
        counts = figure.add_subplot(layout[:, 0])
        _draw_counts(counts, names, predicted, selected, per_epoch)
        upper = figure.add_subplot(layout[0, 1])
        _draw_histogram(upper, confidence, used, threshold)
        if correct is not None:
            lower = figure.add_subplot(layout[1, 1], sharex=upper)
            _draw_accuracy(lower, confidence, correct, used)
    return Plot(
        figure, _alt_text(names, selected, confidence, used, threshold, correct)
    )


def _draw_counts(
    axes: Axes,
    names: Sequence[str],
    predicted: Int[np.ndarray, " classes"],
    selected: Int[np.ndarray, " classes"],
    per_epoch: Int[np.ndarray, " classes"],
) -> None:
    """Two bars a class and a mark; above 30 classes the 30 that lose most."""
    order = list(range(len(names)))
    title = "Images by the teacher's class"
    if len(names) > MOST_CLASSES:
        lost = np.argsort(selected - predicted, kind="stable")
        order = [int(index) for index in lost[:MOST_CLASSES]]
        title += f" (the {MOST_CLASSES} that lose most)"
    places = np.arange(len(order))
    axes.barh(places - 0.2, predicted[order], 0.34, color=FAINT, label="answered")
    axes.barh(places + 0.2, selected[order], 0.34, color=ACCENT, label="kept")
    axes.plot(
        per_epoch[order],
        places + 0.2,
        "D",
        color=CONTRAST,
        markersize=5,
        label="in an epoch, with copies",
    )
    axes.set_yticks(places, [shorten(names[index]) for index in order])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("images")
    axes.set_title(title, pad=26)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        # The bars in their order, then the mark on them.
        [*handles[1:], handles[0]],
        [*labels[1:], labels[0]],
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        borderpad=0.1,
        handlelength=1.2,
        columnspacing=1.1,
    )
    add_gridlines(axes, "x")


def _draw_histogram(
    axes: Axes,
    confidence: Float[np.ndarray, " images"],
    used: Bool[np.ndarray, " images"],
    threshold: float,
) -> None:
    edges = np.linspace(0, 1, BINS + 1)
    axes.hist(
        [confidence[used], confidence[~used]],
        bins=list(edges),
        stacked=True,
        color=[ACCENT, FAINT],
        label=["kept", "left"],
        rwidth=0.92,
    )
    axes.axvline(threshold, color=CONTRAST, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(percent_formatter())
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_ylabel("images")
    axes.set_xlabel("confidence of the answer; dashed: the threshold")
    axes.set_title("How sure the teacher is", pad=26)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0.1)
    add_gridlines(axes, "y")


def _draw_accuracy(
    axes: Axes,
    confidence: Float[np.ndarray, " images"],
    correct: Bool[np.ndarray, " images"],
    used: Bool[np.ndarray, " images"],
) -> None:
    edges = np.linspace(0, 1, ACCURACY_BINS + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, ACCURACY_BINS - 1)
    width = 1 / ACCURACY_BINS
    for index in range(ACCURACY_BINS):
        inside = place == index
        if not inside.any():
            continue
        share = float(correct[inside].mean())
        centre = (index + 0.5) * width
        axes.bar(centre, share, 0.92 * width, color=SKY)
        axes.text(
            centre,
            0.04,
            f"{int(inside.sum()):,}",
            ha="center",
            fontsize=7.5,
            color=INK,
        )
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    if used.any():
        share = float(correct[used].mean())
        axes.axhline(share, color=WARM, linewidth=1.4)
    axes.set_ylim(0, 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.yaxis.set_major_formatter(percent_formatter())
    axes.set_ylabel("answers right")
    axes.set_xlabel("confidence (in each bar its images; line: all that are kept)")
    axes.set_title("How often it is right")
    add_gridlines(axes, "y")


def _alt_text(
    names: Sequence[str],
    selected: Int[np.ndarray, " classes"],
    confidence: Float[np.ndarray, " images"],
    used: Bool[np.ndarray, " images"],
    threshold: float,
    correct: Bool[np.ndarray, " images"] | None,
) -> str:
    most, least = int(selected.argmax()), int(selected.argmin())
    text = (
        f"Pseudo-labels: {int(used.sum()):,} of {len(confidence):,} images kept at a "
        f"threshold of {threshold:g}, from {int(selected[least]):,} of "
        f"{shorten(names[least])} to {int(selected[most]):,} of {shorten(names[most])}."
    )
    if correct is not None and used.any():
        text += f" Of those kept {100 * float(correct[used].mean()):.1f} % are right."
    return text
