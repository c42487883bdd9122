"""Overview of pseudo-labels: counts per class, confidence, and share of right answers.

The counts are before and after filter and balance. The share of right answers needs the
true classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vitral.errors import DataError
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    DASHED,
    FAINT,
    FULL_WIDTH,
    INK,
    QUIET,
    SKY,
    WARM,
    Plot,
    add_gridlines,
    label_axes,
    new_figure,
    percent_formatter,
    set_row_labels,
    shorten,
    style_context,
)

MOST_CLASSES = 30
CLASS_HEIGHT = 0.34  # inches a class
BINS = 20
ACCURACY_BINS = 10
_Counts = Int[np.ndarray, " classes"]
_Flags = Bool[np.ndarray, " images"]
_ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0)}


@dataclass(frozen=True, slots=True)
class _Answers:
    confidence: Float[np.ndarray, " images"]
    used: _Flags
    threshold: float
    correct: _Flags | None


@style_context()
def pseudo_labels(
    names: Sequence[str],
    predicted: _Counts,
    selected: _Counts,
    per_epoch: _Counts,
    *,
    confidence: Float[np.ndarray, " images"],
    used: _Flags,
    threshold: float,
    correct: _Flags | None = None,
) -> Plot:
    """Draw counts on the left, confidence on the right.

    Args:
        predicted: images of each class by the teacher's answer.
        selected: images of each class that are trained on.
        per_epoch: images of each class in an epoch, copies included.
        used: True for images that are trained on.
        correct: True for right answers. None: the true classes are unknown.

    Raises:
        DataError: there is no image.
    """
    if not len(confidence):
        raise DataError("there is no answer to draw: no image was labelled.")
    answers = _Answers(confidence, used, threshold, correct)
    rows = min(len(names), MOST_CLASSES)
    height = max(3.4 if correct is None else 4.6, 1.3 + CLASS_HEIGHT * rows)
    figure = new_figure(FULL_WIDTH, height)
    layout = figure.add_gridspec(1 if correct is None else 2, 2, wspace=0.06)
    counts = figure.add_subplot(layout[:, 0])
    _draw_counts(counts, names, predicted, selected, per_epoch=per_epoch)
    upper = figure.add_subplot(layout[0, 1])
    _draw_histogram(upper, answers)
    if correct is not None:
        lower = figure.add_subplot(layout[1, 1], sharex=upper)
        _draw_accuracy(lower, answers, correct)
    return Plot(figure, _alt_text(names, selected, answers))


def _draw_counts(
    axes: Axes,
    names: Sequence[str],
    predicted: _Counts,
    selected: _Counts,
    *,
    per_epoch: _Counts,
) -> None:
    """Draw two bars and a mark a class; above 30 classes the 30 that lose most."""
    order = list(range(len(names)))
    title = "Images by the teacher's class"
    if len(names) > MOST_CLASSES:
        lost = np.argsort(selected - predicted, kind="stable")
        order = [int(index) for index in lost[:MOST_CLASSES]]
        title += f" (the {MOST_CLASSES} that lose most)"
    ys = np.arange(len(order))
    axes.barh(ys - 0.2, predicted[order], 0.34, color=FAINT, label="answered")
    axes.barh(ys + 0.2, selected[order], 0.34, color=ACCENT, label="kept")
    label = "in an epoch, with copies"
    axes.plot(per_epoch[order], ys + 0.2, "D", color=CONTRAST, ms=5, label=label)
    set_row_labels(axes, [shorten(names[index]) for index in order])
    axes.set_xlim(left=0)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("images")
    axes.set_title(title, pad=26)
    mark, *bars = axes.get_legend_handles_labels()[0]
    style: dict[str, Any] = {
        "borderpad": 0.1,
        "handlelength": 1.2,
        "columnspacing": 1.1,
    }
    # The mark, which matplotlib lists first, goes last.
    axes.legend(handles=[*bars, mark], ncols=3, **style, **_ABOVE)
    add_gridlines(axes, "x")


def _draw_histogram(axes: Axes, answers: _Answers) -> None:
    confidence, used = answers.confidence, answers.used
    edges = np.linspace(0, 1, BINS + 1)
    axes.hist(
        [confidence[used], confidence[~used]],
        bins=list(edges),
        stacked=True,
        color=[ACCENT, FAINT],
        label=["kept", "left"],
        rwidth=0.92,
    )
    axes.axvline(answers.threshold, color=CONTRAST, linewidth=1.2, linestyle=DASHED)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(percent_formatter())
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    x = "confidence of the answer; dashed: the threshold"
    axes.set(xlabel=x, ylabel="images")
    axes.set_title("How sure the teacher is", pad=26)
    axes.legend(ncols=2, borderpad=0.1, **_ABOVE)
    add_gridlines(axes, "y")


def _draw_accuracy(axes: Axes, answers: _Answers, correct: _Flags) -> None:
    edges = np.linspace(0, 1, ACCURACY_BINS + 1)
    bins = np.clip(np.digitize(answers.confidence, edges) - 1, 0, ACCURACY_BINS - 1)
    width = 1 / ACCURACY_BINS
    for index in np.unique(bins):
        inside, center = bins == index, (index + 0.5) * width
        axes.bar(center, float(correct[inside].mean()), 0.92 * width, color=SKY)
        images = f"{int(inside.sum()):,}"
        axes.text(center, 0.04, images, ha="center", fontsize=7.5, color=INK)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=DASHED)
    if answers.used.any():
        share = float(correct[answers.used].mean())
        axes.axhline(share, color=WARM, linewidth=1.4)
    axes.set(ylim=(0, 1.04), yticks=[0, 0.5, 1])
    axes.yaxis.set_major_formatter(percent_formatter())
    x = "confidence (in each bar its images; line: all that are kept)"
    label_axes(axes, "How often it is right", x, "answers right", grid="y")


def _alt_text(names: Sequence[str], selected: _Counts, answers: _Answers) -> str:
    used, correct = answers.used, answers.correct
    most, least = int(selected.argmax()), int(selected.argmin())
    text = (
        f"Pseudo-labels: {int(used.sum()):,} of {len(used):,} images kept at a "
        f"threshold of {answers.threshold:g}, from {int(selected[least]):,} of "
        f"{shorten(names[least])} to {int(selected[most]):,} of {shorten(names[most])}."
    )
    if correct is not None and used.any():
        text += f" Of those kept {100 * float(correct[used].mean()):.1f} % are right."
    return text
