"""Pseudo-labels drawn: counts, confidence, and the accuracy where it is known."""

import numpy as np
import pytest

from figures import texts
from vitral import plots
from vitral.errors import DataError

NAMES = ("ant", "bee", "cat")
ANSWERED, KEPT, SEEN = np.array([5, 2, 1]), np.array([3, 2, 0]), np.array([6, 4, 0])
CONFIDENCE = np.array([0.95, 0.93, 0.62, 0.58, 0.41, 0.97, 0.55, 0.28])
USED = np.array([True, True, True, False, False, True, True, False])
RIGHT = np.array([True, True, False, True, False, True, True, False])


def draw(correct=None):
    answers = {"confidence": CONFIDENCE, "used": USED, "threshold": 0.3}
    return plots.pseudo_labels(NAMES, ANSWERED, KEPT, SEEN, **answers, correct=correct)


def test_counts_and_confidence():
    plot = draw()
    counts, histogram = plot.figure.axes
    widths = [bar.get_width() for bar in counts.patches]
    assert widths == [5, 2, 1, 3, 2, 0]
    assert list(counts.lines[0].get_xdata()) == [6, 4, 0]
    legend = [text.get_text() for text in counts.get_legend().get_texts()]
    assert legend == ["answered", "kept", "in an epoch, with copies"]
    heights = sum(bar.get_height() for bar in histogram.patches)
    assert heights == 8
    kept = sum(bar.get_height() for bar in histogram.patches[:20])
    assert kept == 5
    assert list(histogram.lines[0].get_xdata()) == [0.3, 0.3]
    assert plot.alt == (
        "Pseudo-labels: 5 of 8 images kept at a threshold of 0.3, from 0 of cat to 3 "
        "of ant."
    )


def test_accuracy_by_confidence():
    plot = draw(RIGHT)
    accuracy = plot.figure.axes[2]
    # Bins of a tenth: 0.28, 0.41, [0.58, 0.55], 0.62, [0.95, 0.93, 0.97].
    shares = [round(bar.get_height(), 3) for bar in accuracy.patches]
    assert shares == [0, 0, 1, 0, 1]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in accuracy.patches]
    assert centres == pytest.approx([0.25, 0.45, 0.55, 0.65, 0.95])
    assert [text.get_text() for text in accuracy.texts] == ["1", "1", "2", "1", "3"]
    assert "How often it is right" in texts(plot)
    assert plot.alt.endswith("Of those kept 80.0 % are right.")


def test_of_many_classes_those_that_lose_most():
    names = [f"class {index}" for index in range(41)]
    answered, kept = np.full(41, 9), np.full(41, 9)
    kept[17] = 2
    answers = {"confidence": CONFIDENCE, "used": USED, "threshold": 0.3}
    plot = plots.pseudo_labels(names, answered, kept, kept, **answers)
    counts = plot.figure.axes[0]
    labels = [label.get_text() for label in counts.get_yticklabels()]
    assert len(labels) == 30
    assert labels[0] == "class 17"
    assert "the 30 that lose most" in counts.get_title("left")


def test_nothing_to_draw():
    none = np.array([], dtype=bool)
    answers = {"confidence": none.astype(float), "used": none, "threshold": 0.3}
    with pytest.raises(DataError, match="there is no answer to draw"):
        plots.pseudo_labels(NAMES, ANSWERED, KEPT, SEEN, **answers)
