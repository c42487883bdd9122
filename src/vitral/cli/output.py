"""The last lines of a verb: the result, its files, the next command."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitral.workflows import Run


def summary_lines(run: "Run") -> list[str]:
    """Return the last lines of `train` and `demo`."""
    from vitral.report.baselines import Baselines

    noun = input_noun(run)
    if run.task.has_answers:
        results = {split: run.result(split) for split in run.metrics}
        lines = [
            f"{split}: {result.sentence(noun)}"
            for split, result in results.items()
            if result is not None
        ]
        baselines = Baselines.read(run.path)
        if baselines is not None:
            measured = {name: it for name, it in results.items() if it is not None}
            ahead = baselines.ahead(measured)
            lines = [*([ahead] if ahead else []), *lines, str(baselines)]
        val = results.get("val")
        lines += [] if val is None else val.fitted_lines()
        if "test" not in run.metrics and "val" in run.metrics and _val_chose(run):
            lines.append("val chose the model, so its number is a little too good")
        command = f"vitral predict {run.path} {noun.upper()}..."
    else:
        lines = _representation_lines(run)
        command = f"vitral train DATA --weights {run.path} --out RUN"
    return [
        *lines,
        f"report: {run.path / 'report.html'}",
        f"model: {run.path / 'model'}",
        f"next: {command}",
    ]


def _val_chose(run: "Run") -> bool:
    """Return whether val chose the step or the head of the model."""
    from vitral.training.log import NO_MONITOR

    head = run.extra.get("head") or {}
    return run.config.loop.monitor != NO_MONITOR or bool(head.get("val"))


def _representation_lines(run: "Run") -> list[str]:
    file = run.path / "representation.json"
    splits = json.loads(file.read_text())["splits"] if file.is_file() else {}
    lines = []
    for split, result in splits.items():
        line = f"{split}: loss {result['loss']:.4f} on {result['n']} images"
        if result["knn"] is not None:
            low, high = _bounds(result["knn"]["interval"])
            line += (
                f"; neighbours tell the class of {_percent(result['knn']['accuracy'])} "
                f"(95 % interval {_percent(low)} to {_percent(high)})"
            )
        lines.append(line)
    return lines


def input_noun(run: "Run") -> str:
    """Return "clips" or "images", which the model of a run takes."""
    return run.preprocess.kind


def _percent(value: object) -> str:
    assert isinstance(value, float | int)
    return f"{100 * value:.1f} %"


def _bounds(interval: object) -> tuple[float, float]:
    if isinstance(interval, dict):
        return interval["low"], interval["high"]
    assert isinstance(interval, list | tuple)
    return interval[0], interval[1]
