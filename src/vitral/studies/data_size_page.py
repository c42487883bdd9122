"""The data-size study on paper: verdict, figure, predictions, every size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.evaluation import Expected, Scaling
from vitral.evaluation.learning_curves import shown_from
from vitral.studies.data_size import NAME, QUESTION, TIMES, Answer, Growth
from vitral.studies.engine import Value

HOW = {
    "ridge": "regularised least squares on frozen features, its strength chosen by "
    "leaving each training image out in turn",
    "linear": "logistic regression on frozen features, its strength chosen on a fifth "
    "of the subset",
    "knn": "a vote of the 20 nearest training images on frozen features",
}


class Written(NamedTuple):
    """The files of the answer."""

    page: Path
    figure: Path
    result: Path


def write_answer(answer: Answer, folder: Path, command: str, machine: str) -> Written:
    """`data-size.md`, `data-size.png` and `result.json` in `folder`.

    Args:
        command: what repeats it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = Written(
        folder / f"{NAME}.md", folder / f"{NAME}.png", folder / "result.json"
    )
    plot = figure(answer)
    write_atomic(files.figure, plots.to_png(plot.figure))
    lines = [
        f"# Study: {NAME}, {answer.data}",
        "",
        QUESTION,
        "",
        f"**Verdict.** {answer.verdict}",
        "",
        f"![{plot.alt}]({files.figure.name})",
        "",
        "## What more images would bring",
        "",
        *prediction_lines(answer),
        "",
        "Accuracy in per cent with the 90 % interval of one new measurement, for more "
        "images of the same kind and for the same test images. Another test set of "
        f"{_tested(answer):,} images moves all of it: {_test_spans(answer)}.",
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
        f"Measured by {HOW[answer.protocol]}; the curve is a − b n^−c, "
        + "; ".join(f"for {name} {_law(one.fit)}" for name, one in answer.grown.items())
        + ". The interval is over fits that leave out none, one, two ... of the "
        "smallest sizes, which need not be on the curve yet; the line is the middle "
        "one of them.",
        "",
        "```sh",
        command,
        "```",
        "",
        f"{answer.seconds:.0f} s without computing features, on {machine}.",
    ]
    write_atomic(files.page, "\n".join(lines) + "\n")
    write_json(files.result, to_dict(answer, command, machine))
    return files


def figure(answer: Answer) -> plots.Plot:
    """One curve for each set of weights, up to ten times the images."""
    return plots.data_sizes(
        {
            name: plots.Grown(
                np.array(one.points.sizes),
                np.array(one.points.accuracies),
                _curve(one.fit, answer.sizes),
            )
            for name, one in answer.grown.items()
        },
        title=f"Accuracy over the number of training images of {answer.data}",
        verdict=answer.verdict,
    )


def prediction_lines(answer: Answer) -> list[str]:
    """A Markdown table: the whole, and what is predicted beyond it."""
    whole = answer.sizes[-1]
    heads = [f"{times} times ({times * whole:,})" for times in TIMES]
    lines = [
        _row(["weights", f"now ({whole:,})", *heads, "twice adds"]),
        _row(["---", *["---:"] * (len(TIMES) + 2)]),
    ]
    for name, one in answer.grown.items():
        low, high = one.fit.gain_interval
        lines.append(
            _row(
                [
                    name,
                    f"{100 * one.points.whole.accuracy:.1f}",
                    *(_expected(expected) for expected in one.predicted),
                    f"{100 * low:.1f} to {100 * high:.1f} ({one.fit.trend})",
                ]
            )
        )
    return lines


def size_lines(answer: Answer) -> list[str]:
    """A Markdown table: every size of every set of weights."""
    names = list(answer.grown)
    lines = [
        _row(["training images", *names]),
        _row(["---:", *["---:"] * len(names)]),
    ]
    for size in answer.sizes:
        cells = [_value(answer.grown[name], size) for name in names]
        lines.append(_row([f"{size:,}", *cells]))
    return lines


def to_dict(answer: Answer, command: str, machine: str) -> dict[str, Any]:
    """Every number, as plain data for JSON."""
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
        "weights": {name: _numbers(one) for name, one in answer.grown.items()},
    }


def _numbers(one: Growth) -> dict[str, Any]:
    fit, whole = one.fit, one.points.whole
    return {
        "whole": {
            "accuracy": whole.accuracy,
            "test_images": whole.n,
            "interval_95": list(whole.interval),
            "settings": whole.settings,
        },
        "measured": [
            {"images": size, "draw": draw, "accuracy": accuracy}
            for size, draw, accuracy in zip(
                one.points.sizes, one.points.draws, one.points.accuracies, strict=True
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
            for expected in one.predicted
        ],
    }


def _curve(fit: Scaling, sizes: Sequence[int]) -> plots.FittedCurve:
    start = shown_from(np.array(sizes, dtype=float))
    along = np.geomspace(start, max(TIMES) * sizes[-1], 80)
    # The largest size itself, where the band begins.
    along = np.sort(np.append(along, float(sizes[-1])))
    along = along[np.append(True, np.diff(along) > 1e-9 * along[1:])]
    expected = [fit.predict(float(size)) for size in along]
    return plots.FittedCurve(
        along,
        [one.accuracy for one in expected],
        [one.interval.low for one in expected],
        [one.interval.high for one in expected],
    )


def _expected(one: Expected) -> str:
    low, high = one.interval
    return f"{100 * one.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _value(one: Growth, size: int) -> str:
    found = one.points.at(size)
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    return str(Value(float(np.mean(found)), spread, len(found)))


def _law(fit: Scaling) -> str:
    low, high = fit.a_interval
    return (
        f"a = {100 * fit.a:.1f} % (90 % interval {100 * low:.1f} to {100 * high:.1f}), "
        f"c = {fit.c:.2f}"
    )


def _tested(answer: Answer) -> int:
    return next(iter(answer.grown.values())).points.whole.n


def _test_spans(answer: Answer) -> str:
    spans = []
    for name, one in answer.grown.items():
        low, high = one.points.whole.interval
        spans.append(
            f"the accuracy now of {name} is {100 * low:.1f} to {100 * high:.1f} (95 %)"
        )
    return ", ".join(spans)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
