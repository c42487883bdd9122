"""Loss, accuracy, learning rate, gradient norm and speed over the steps of a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vitral.errors import DataError
from vitral.plots.style import (
    ACCENT,
    CONTRAST,
    FULL_WIDTH,
    NARROW_WIDTH,
    SKY,
    Plot,
    add_gridlines,
    annotate,
    format_percent,
    new_figure,
    percent_formatter,
    style_context,
)

MOST_POINTS = 500

MetricRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _MetricSeries:
    step: Float[np.ndarray, " points"]
    value: Float[np.ndarray, " points"]

    def plot(self, axes: Axes, **style: Any) -> None:
        axes.plot(self.step, self.value, **style)


_PanelDrawings = dict[str, Callable[[Axes], None]]
"""By the title of the panel."""


@style_context()
def learning_curves(
    train_rows: Sequence[MetricRow],
    eval_rows: Sequence[MetricRow],
    *,
    monitor: str = "",
    narrow: bool = False,
) -> Plot:
    """Draw loss and accuracy on top, learning rate, gradient norm and speed below.

    Args:
        train_rows: the "train" lines of metrics.jsonl; a panel appears for each of
            `loss`, `lr`, `grad_norm` and `images_per_second` that they hold.
        eval_rows: the "eval" lines; `loss` and `accuracy` are drawn, or where there is
            no `accuracy`, `knn_accuracy`.
        monitor: metric of `eval_rows` to draw where they have neither.
        narrow: True to draw all panels below each other, for a narrow page.

    Raises:
        DataError: not one number to draw.
    """
    large = _large_panels(train_rows, eval_rows, monitor)
    small = _small_panels(train_rows)
    if not large and not small:
        raise DataError(
            "there is no curve to draw: the rows hold no finite loss, accuracy, lr, "
            "grad_norm or images_per_second with a step."
        )
    rows = [group for group in (large, small) if group]
    if narrow:
        rows = [{title: draw} for group in rows for title, draw in group.items()]
    heights = [2.9 if row.keys() <= large.keys() else 1.8 for row in rows]
    figure = new_figure(NARROW_WIDTH if narrow else FULL_WIDTH, sum(heights) + 0.2)
    layout = figure.add_gridspec(len(heights), 6, height_ratios=heights, hspace=0.1)
    for row, panels in enumerate(rows):
        width = 6 // len(panels)
        for i, (title, draw) in enumerate(panels.items()):
            axes = figure.add_subplot(layout[row, i * width : (i + 1) * width])
            axes.set(title=title, xlabel="step")
            draw(axes)
            add_gridlines(axes, "y")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.margins(x=0.02)
    return Plot(figure, _alt_text(train_rows, eval_rows))


def _large_panels(
    train_rows: Sequence[MetricRow], eval_rows: Sequence[MetricRow], monitor: str
) -> _PanelDrawings:
    train = _metric_series(train_rows, "loss")
    held_out = _metric_series(eval_rows, "loss")
    accuracy, by = _metric_series(eval_rows, "accuracy"), ""
    if not len(accuracy.step):
        accuracy, by = _metric_series(eval_rows, "knn_accuracy"), " by neighbours"

    def draw_loss(axes: Axes) -> None:
        if len(train.step):
            train.plot(axes, color=SKY, linewidth=0.9, alpha=0.8)
            _smooth(train).plot(axes, color=ACCENT, label="training, smoothed")
        if len(held_out.step):
            style = _marker_style(held_out)
            held_out.plot(axes, color=CONTRAST, label="validation", **style)
        axes.set_ylabel("loss")
        axes.legend(loc="best")

    def draw_accuracy(axes: Axes) -> None:
        accuracy.plot(axes, color=CONTRAST, **_marker_style(accuracy))
        best = _best_index(accuracy)
        step, value = accuracy.step[best], accuracy.value[best]
        axes.plot(step, value, "o", ms=8, color=CONTRAST)
        side = "right" if step > accuracy.step.mean() else "left"
        text = f"best {format_percent(value)}"
        annotate(axes, text, (step, value), (0, 8), ha=side, color=CONTRAST)
        axes.margins(y=0.15)
        low, high = axes.get_ylim()[0], min(axes.get_ylim()[1], 1.05)
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        axes.set_yticks([tick for tick in ticks if 0 <= tick <= 1])
        axes.set_ylim(low, high)
        axes.set_ylabel(f"validation images right{by}")
        axes.yaxis.set_major_formatter(percent_formatter())

    panels: _PanelDrawings = {}
    if len(train.step) or len(held_out.step):
        panels["Loss"] = draw_loss
    if len(accuracy.step):
        panels[f"Accuracy{by}"] = draw_accuracy
    monitored = _metric_series(eval_rows, monitor)
    if not len(accuracy.step) and len(monitored.step) and monitor != "loss":
        title = monitor.replace("_", " ")
        panels[title[:1].upper() + title[1:]] = partial(_draw_metric, curve=monitored)
    return panels


def _draw_metric(axes: Axes, curve: _MetricSeries) -> None:
    curve.plot(axes, color=CONTRAST, **_marker_style(curve))
    axes.set_ylabel("on validation images")
    axes.margins(y=0.15)


def _small_panels(train_rows: Sequence[MetricRow]) -> _PanelDrawings:
    def draw(axes: Axes, curve: _MetricSeries, unit: str) -> None:
        curve.plot(axes, color=ACCENT, linewidth=1.2)
        axes.set_ylim(0, max(float(curve.value.max()) * 1.1, 1e-12))
        axes.set_ylabel(unit)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")

    fields = {
        "Learning rate": ("lr", ""),
        "Gradient norm": ("grad_norm", ""),
        "Speed": ("images_per_second", "images/s"),
    }
    panels: _PanelDrawings = {}
    for title, (field, unit) in fields.items():
        curve = _metric_series(train_rows, field)
        if len(curve.step):
            panels[title] = partial(draw, curve=curve, unit=unit)
    return panels


def _metric_series(rows: Sequence[MetricRow], field: str) -> _MetricSeries:
    """Return the finite points of one field, averaged to at most MOST_POINTS."""
    points = [
        (float(row["step"]), float(row[field]))
        for row in rows
        if isinstance(row.get(field), int | float)
        and isinstance(row.get("step"), int | float)
        and math.isfinite(row[field])
    ]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    if len(table) > MOST_POINTS:
        table = np.stack(
            [part.mean(axis=0) for part in np.array_split(table, MOST_POINTS)]
        )
    return _MetricSeries(table[:, 0], table[:, 1])


def _best_index(curve: _MetricSeries) -> int:
    """Return the index of the largest value; the last of equal ones, as in training."""
    return int(np.flatnonzero(curve.value == curve.value.max())[-1])


def _smooth(curve: _MetricSeries) -> _MetricSeries:
    """Return a centred running mean over a twentieth of the curve."""
    half = len(curve.value) // 40
    total = np.concatenate([[0.0], curve.value.cumsum()])
    index = np.arange(len(curve.value))
    start = np.maximum(index - half, 0)
    end = np.minimum(index + half + 1, len(index))
    return _MetricSeries(curve.step, (total[end] - total[start]) / (end - start))


def _marker_style(curve: _MetricSeries) -> dict[str, Any]:
    few = len(curve.step) <= 40
    return {"marker": "o" if few else "", "markersize": 3.5}


def _alt_text(train_rows: Sequence[MetricRow], eval_rows: Sequence[MetricRow]) -> str:
    parts = ["Learning curves over training steps."]
    train = _metric_series(train_rows, "loss")
    accuracy = _metric_series(eval_rows, "accuracy")
    if len(train.step):
        parts.append(
            f"Training loss goes from {train.value[0]:.3g} to {train.value[-1]:.3g} "
            f"at step {train.step[-1]:.0f}."
        )
    if len(accuracy.step):
        parts.append(
            f"Validation accuracy ends at {format_percent(accuracy.value[-1])}, its "
            f"best is {format_percent(accuracy.value.max())} at step "
            f"{accuracy.step[_best_index(accuracy)]:.0f}."
        )
    return " ".join(parts)
