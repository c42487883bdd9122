"""Page of the data-size study: verdict, figure, predictions, every size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitral import plots
from vitral.evaluation import ExpectedAccuracy, Scaling
from vitral.evaluation.learning_curves import median_fit_start
from vitral.studies.data_size import (
    MULTIPLES,
    NAME,
    QUESTION,
    DataSizeResult,
    LearningCurve,
)
from vitral.studies.engine import CellStats, command_lines, markdown_table, write_files

PROTOCOL_DESCRIPTIONS = {
    "ridge": "regularised least squares on frozen features, its strength chosen by "
    "leaving each training image out in turn",
    "linear": "logistic regression on frozen features, its strength chosen on a fifth "
    "of the subset",
    "knn": "a vote of the 20 nearest training images on frozen features",
}


def write_data_size_page(
    answer: DataSizeResult, folder: Path, command: str, machine: str
) -> Path:
    """Write `data-size.md`, `data-size.png` and `result.json`; return the page's path.

    Args:
        command: the command line that repeats it.
    """
    plot = plot_curves(answer)
    lines = [
        f"# Study: {NAME}, {answer.data}",
        "",
        QUESTION,
        "",
        f"**Verdict.** {answer.verdict}",
        "",
        f"![{plot.alt}]({NAME}.png)",
        "",
        "## What more images would bring",
        "",
        *prediction_lines(answer),
        "",
        "Accuracy in per cent with the 90 % interval of one new measurement, for more "
        "images of the same kind and for the same test images. Another test set of "
        f"{_num_test_images(answer):,} images moves all of it: "
        f"{_test_intervals(answer)}.",
        "",
        "## Measured",
        "",
        *size_lines(answer),
        "",
        f"Test accuracy in per cent, mean ± standard deviation over {len(answer.seeds)}"
        " draws of nested subsets with the class shares of the whole. All images can "
        "be drawn in one way only.",
        "",
        "## How it was made",
        "",
        f"Measured by {PROTOCOL_DESCRIPTIONS[answer.protocol]}; the curve is a − b "
        "n^−c, "
        + "; ".join(
            f"for {name} {_describe_fit(curve.fit)}"
            for name, curve in answer.curves.items()
        )
        + ". The interval is over fits that leave out none, one, two ... of the "
        "smallest sizes, which need not be on the curve yet; the line is the middle "
        "one of them.",
        "",
        *command_lines(command),
        "",
        f"{answer.seconds:.0f} s without computing features, on {machine}.",
    ]
    return write_files(folder, NAME, plot, lines, to_dict(answer, command, machine))


def plot_curves(answer: DataSizeResult) -> plots.Plot:
    """Plot a curve per set of weights, up to ten times the images."""
    return plots.data_size_curves(
        {
            name: plots.DataSizeSeries(
                np.array(curve.points.sizes),
                np.array(curve.points.accuracies),
                _fitted_curve(curve.fit, answer.sizes),
            )
            for name, curve in answer.curves.items()
        },
        title=f"Accuracy over the number of training images of {answer.data}",
        verdict=answer.verdict,
    )


def prediction_lines(answer: DataSizeResult) -> list[str]:
    """Return a Markdown table: the accuracy now and at each of MULTIPLES."""
    full = answer.sizes[-1]
    heads = [f"{times} times ({times * full:,})" for times in MULTIPLES]
    rows = []
    for name, curve in answer.curves.items():
        low, high = curve.fit.gain_interval
        cells = [
            name,
            f"{100 * curve.points.full.accuracy:.1f}",
            *(_format_prediction(expected) for expected in curve.predicted),
            f"{100 * low:.1f} to {100 * high:.1f} ({curve.fit.trend})",
        ]
        rows.append(cells)
    return markdown_table(["weights", f"now ({full:,})", *heads, "twice adds"], rows)


def size_lines(answer: DataSizeResult) -> list[str]:
    """Return a Markdown table: the accuracy of all weights at each size."""
    curves = answer.curves
    rows = [
        [f"{size:,}", *(_format_accuracy(curve, size) for curve in curves.values())]
        for size in answer.sizes
    ]
    return markdown_table(
        ["training images", *curves], rows, ["---:"] * (len(curves) + 1)
    )


def to_dict(answer: DataSizeResult, command: str, machine: str) -> dict[str, Any]:
    """Return all numbers as plain data for JSON."""
    return {
        "study": NAME,
        "data": answer.data,
        "protocol": answer.protocol,
        "verdict": answer.verdict,
        "sizes": list(answer.sizes),
        "seeds": list(answer.seeds),
        "classes": answer.classes,
        "command": command,
        "machine": machine,
        "seconds": answer.seconds,
        "weights": {
            name: _curve_to_dict(curve) for name, curve in answer.curves.items()
        },
    }


def _curve_to_dict(curve: LearningCurve) -> dict[str, Any]:
    fit, full = curve.fit, curve.points.full
    return {
        "whole": {
            "accuracy": full.accuracy,
            "test_images": full.n,
            "interval_95": list(full.interval),
            "settings": full.settings,
        },
        "measured": [
            {"images": size, "draw": draw, "accuracy": accuracy}
            for size, draw, accuracy in zip(
                curve.points.sizes,
                curve.points.draws,
                curve.points.accuracies,
                strict=True,
            )
        ],
        "curve": {"a": fit.a, "b": fit.b, "c": fit.c},
        "a_interval_90": list(fit.a_interval),
        "noise": fit.noise,
        "noise_falls": fit.noise_falls,
        "trend": fit.trend,
        "verdict": fit.verdict,
        "gain_of_twice": fit.gain,
        "gain_of_twice_interval_90": list(fit.gain_interval),
        "predicted": [
            {
                "images": round(expected.images),
                "accuracy": expected.accuracy,
                "interval_90": list(expected.interval),
            }
            for expected in curve.predicted
        ],
    }


def _fitted_curve(fit: Scaling, sizes: Sequence[int]) -> plots.FittedCurve:
    start = median_fit_start(np.array(sizes, dtype=float))
    x = np.geomspace(start, max(MULTIPLES) * sizes[-1], 80)
    # The largest size itself, where the band begins.
    x = np.sort(np.append(x, float(sizes[-1])))
    x = x[np.append(True, np.diff(x) > 1e-9 * x[1:])]
    predictions = [fit.predict(float(size)) for size in x]
    return plots.FittedCurve(
        x,
        [prediction.accuracy for prediction in predictions],
        [prediction.interval.low for prediction in predictions],
        [prediction.interval.high for prediction in predictions],
    )


def _format_prediction(prediction: ExpectedAccuracy) -> str:
    low, high = prediction.interval
    return f"{100 * prediction.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _format_accuracy(curve: LearningCurve, size: int) -> str:
    accuracies = curve.points.accuracies_at(size)
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return str(CellStats(float(np.mean(accuracies)), spread, len(accuracies)))


def _describe_fit(fit: Scaling) -> str:
    low, high = fit.a_interval
    return (
        f"a = {100 * fit.a:.1f} % (90 % interval {100 * low:.1f} to {100 * high:.1f}), "
        f"c = {fit.c:.2f}"
    )


def _num_test_images(answer: DataSizeResult) -> int:
    return next(iter(answer.curves.values())).points.full.n


def _test_intervals(answer: DataSizeResult) -> str:
    spans = []
    for name, curve in answer.curves.items():
        low, high = curve.points.full.interval
        spans.append(
            f"the accuracy now of {name} is {100 * low:.1f} to {100 * high:.1f} (95 %)"
        )
    return ", ".join(spans)
