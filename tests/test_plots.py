"""Figures: what they show is in their artists, their text, and their repeated bytes."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from figures import texts
from vitral import plots
from vitral.errors import DataError
from vitral.tasks.classification import classify, reliability
from vitral.tasks.classification import plots as class_plots


def rows(num_classes: int, n: int = 300):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, num_classes, n)
    logits = generator.normal(size=(n, num_classes))
    logits[np.arange(n), labels] += 3
    names = [f"class {i}" for i in range(num_classes)]
    return classify(logits, labels, names, resamples=0)


TRAIN = [
    {"step": 10 * i, "loss": 2 / i, "lr": 0.1, "grad_norm": 1.0, "images_per_second": 9}
    for i in range(1, 60)
]
EVAL = [{"step": 100 * i, "loss": 1.0, "accuracy": 0.1 * i} for i in range(1, 6)]


def all_plots() -> dict[str, plots.Plot]:
    result = rows(7)
    return {
        "learning_curves": plots.learning_curves(TRAIN, EVAL),
        "confusion": class_plots.confusion(result.confusion_matrix(), result.classes),
        "reliability": class_plots.reliability(result.reliability),
        "class_counts": plots.class_counts(
            {"train": {"a": 3, "b": 1}, "val": {"a": 2}}
        ),
        "per_class": class_plots.per_class(result.per_class),
    }


def test_bytes_repeat_and_settings_stay() -> None:
    before = dict(matplotlib.rcParams)
    pairs = zip(all_plots().values(), all_plots().values(), strict=True)
    for first, second in pairs:
        assert plots.to_svg(first.figure) == plots.to_svg(second.figure)
        png = plots.to_png(first.figure, 72)
        assert png == plots.to_png(second.figure, 72)
        assert Image.open(io.BytesIO(png)).width > 200
        assert first.alt.endswith(".")
        assert first.figure.axes[0].get_title(loc="left")
    assert dict(matplotlib.rcParams) == before


def test_learning_curves_have_a_panel_for_what_is_there() -> None:
    panels = plots.learning_curves(TRAIN, EVAL).figure.axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["Loss", "Accuracy", "Learning rate", "Gradient norm", "Speed"]
    only_loss = plots.learning_curves([{"step": 1, "loss": 3.0}], [])
    assert [axes.get_title(loc="left") for axes in only_loss.figure.axes] == ["Loss"]


def test_learning_curves_name_the_best_and_skip_what_is_not_finite() -> None:
    odd = [*EVAL, {"step": 600, "loss": float("nan"), "accuracy": 0.2}, {"step": 700}]
    plot = plots.learning_curves([], odd)
    assert "best 50.0\N{NO-BREAK SPACE}%" in texts(plot)
    assert "ends at 20.0" in plot.alt
    assert len(plot.figure.axes[0].lines[0].get_xdata()) == 5


def test_of_equal_steps_the_best_is_the_one_that_training_keeps() -> None:
    rows = [{"step": step, "accuracy": 0.5} for step in (100, 200, 300)]
    rows.append({"step": 400, "accuracy": 0.4})
    plot = plots.learning_curves([], rows)
    mark = plot.figure.axes[0].lines[-1]
    assert list(mark.get_xdata()) == [300]
    assert "at step 300." in plot.alt


def test_long_runs_are_thinned() -> None:
    long = [{"step": i, "loss": 1.0} for i in range(20_000)]
    assert len(plots.to_svg(plots.learning_curves(long, []).figure)) < 100_000


def test_no_curve_is_an_error() -> None:
    with pytest.raises(DataError, match="there is no curve to draw"):
        plots.learning_curves([{"step": 1}], [])


def test_confusion_shows_counts_and_names_the_worst_pair() -> None:
    matrix = np.array([[50, 0, 2], [11, 40, 0], [0, 0, 0]])
    plot = class_plots.confusion(matrix, ["ant", "$x_1$", "<b>"])
    for piece in ["50", "11", "40", "$x_1$", "<b>"]:
        assert piece in texts(plot)
    assert "$x_1$ taken for ant, 11 times" in plot.alt


def test_confusion_of_many_classes_lists_pairs() -> None:
    matrix = np.diag(np.full(31, 5))
    assert "No image was confused" in texts(
        class_plots.confusion(matrix, [f"c{i}" for i in range(31)])
    )
    matrix[3, 30] = 4
    plot = class_plots.confusion(matrix, [f"c{i}" for i in range(31)])
    assert "c3  →  c30" in texts(plot)
    assert "c3 taken for c30, 4 times" in plot.alt


def test_confusion_refuses_another_size() -> None:
    with pytest.raises(DataError, match=r"of 3 classes must be 3 x 3: got 2 x 2"):
        class_plots.confusion(np.zeros((2, 2), int), ["a", "b", "c"])


def test_reliability_draws_only_filled_bins() -> None:
    bins = reliability(np.array([0.55, 0.95]), np.array([False, True]), bins=10)
    plot = class_plots.reliability(bins)
    assert len(plot.figure.axes[0].patches) == 2
    assert "ECE 0.300" in texts(plot)
    with pytest.raises(DataError, match="at least one example"):
        class_plots.reliability(reliability(np.zeros(0), np.zeros(0, bool)))


def test_class_counts_stack_or_sort() -> None:
    few = plots.class_counts({"train": {"a": 3, "b": 1}, "test": {"b": 2}})
    widths = [patch.get_width() for patch in few.figure.axes[0].patches]
    assert widths == [3, 1, 0, 2]
    assert "train 4, test 2" in few.alt
    many = plots.class_counts({"train": {f"c{i}": i for i in range(40)}})
    assert many.figure.axes[0].lines[0].get_ydata()[0] == 39
    with pytest.raises(DataError, match="there is no class to count"):
        plots.class_counts({"train": {}})


def test_per_class_shows_the_lowest_first_and_at_most_thirty() -> None:
    result = rows(37)
    plot = class_plots.per_class(result.per_class)
    shown = plot.figure.axes[0].lines[0].get_xdata()
    recalls = sorted(r.recall for r in result.per_class if r.recall is not None)
    np.testing.assert_allclose(shown, recalls[:30])
    assert "the 30 lowest" in texts(plot)
    with pytest.raises(DataError, match="no class has an example"):
        class_plots.per_class([])


def test_a_name_in_any_script_is_drawn_without_a_warning() -> None:
    plot = plots.class_counts({"train": {"猫\n犬": 3, "a" * 90: 1}})
    assert "猫 犬" in texts(plot)
    assert "…" in texts(plot)
    assert plots.to_png(plot.figure, 50)
