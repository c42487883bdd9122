"""Sections on data, training, model and events, and the lists to reproduce a run."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from vitral import plots
from vitral.document import RunFolder
from vitral.document.images import svg_picture, thumbnail
from vitral.document.numbers import NONE, Number, Text, count, flatten, large, pointer
from vitral.errors import DataError
from vitral.progress import unfinished_sentence
from vitral.report.data_counts import count_rows
from vitral.training.log import NO_MONITOR

MOST_BAD_FILES = 50
MOST_SAMPLES = 24
MOST_EVENTS = 200
_NO_METRICS = ("event", "step", "split", "loss")


Facts = list[tuple[str, Text]]
"""Names and values."""


def data_section(
    run: RunFolder[Any],
    samples: Sequence[tuple[Image.Image, str]],
    budget: int,
    most_rows: int,
) -> dict[str, Any] | None:
    """Return what the template shows of the data; None if data.json is missing."""
    if run.data is None:
        return None
    counts = run.data.get("counts") or {}
    classes = list(run.data.get("classes") or [])
    bad = list(run.data.get("bad") or [])
    rows = [
        (name, [_class_count(sizes, split, name) for split, sizes in counts.items()])
        for name in classes[:most_rows]
    ]
    pictures = []
    for image, caption in samples[:MOST_SAMPLES]:
        picture = thumbnail(image, caption)
        budget -= len(picture.source)
        if budget < 0:
            break
        pictures.append(picture)
    return {
        "facts": _data_facts(run.data, counts, classes),
        "splits": list(counts),
        "rows": rows,
        "left_out": max(len(classes) - most_rows, 0),
        "figure": svg_picture(
            plots.class_counts(counts), plots.class_counts(counts, narrow=True)
        )
        if classes and any(counts.values())
        else None,
        "bad": [
            {key: str(row.get(key, "")) for key in ("path", "split", "reason")}
            for row in bad[:MOST_BAD_FILES]
        ],
        "bad_left_out": max(len(bad) - MOST_BAD_FILES, 0),
        "notes": [str(note) for note in run.data.get("notes") or []],
        "samples": pictures,
    }


def _class_count(sizes: dict[str, int], split: str, name: str) -> Number:
    source = pointer("data.json", "counts", split, name)
    return count(sizes[name], source) if name in sizes else Number(None, "0", source)


def _data_facts(
    data: dict[str, Any], counts: dict[str, dict[str, int]], classes: list[str]
) -> Facts:
    facts: Facts = [
        ("Name", [str(data.get("name", ""))]),
        ("Place", [str(data.get("root", ""))]),
        *(
            (name.capitalize(), _join_counts(row))
            for name, row in count_rows(data).items()
        ),
        ("Fingerprint", [str(data.get("fingerprint", ""))[:16]]),
    ]
    if classes:
        number = count(len(classes), pointer("data.json", "classes"), "length")
        facts.insert(2, ("Classes", [number]))
    for key, name in (("bad", "Undecodable files"), ("ignored", "Ignored files")):
        number = count(len(data.get(key) or []), pointer("data.json", key), "length")
        facts.append((name, [number]))
    return [(name, text) for name, text in facts if text not in ([], [""])]


def _join_counts(row: dict[str, Number]) -> Text:
    text: list[str | Number] = []
    for split, number in row.items():
        text += [", " if text else "", f"{split} ", number]
    return text


def training_section(run: RunFolder[Any]) -> dict[str, Any] | None:
    """Return the curves of a run; None if metrics.jsonl is missing."""
    if not run.metrics:
        return None
    steps, measured = run.events("train"), run.events("eval")
    facts: Facts = []
    if steps:
        line, row = steps[-1].line, steps[-1].row
        step = count(int(row.get("step", 0)), pointer("metrics.jsonl", line, "step"))
        facts.append(("Steps", [step]))
        if isinstance(row.get("epoch"), int | float):
            source = pointer("metrics.jsonl", line, "epoch")
            epoch = Number(row["epoch"], f"{row['epoch']:.4g}", source)
            facts.append(("Epochs", [epoch]))
    rows = [line.row for line in steps], [line.row for line in measured]
    loop = run.config.get("loop")
    monitor = str(loop.get("monitor", "")) if isinstance(loop, dict) else ""
    if monitor == NO_MONITOR and rows[1]:
        monitor = next((name for name in rows[1][-1] if name not in _NO_METRICS), "")
    try:
        plot = plots.learning_curves(*rows, monitor=monitor)
    except DataError:
        note = "metrics.jsonl holds no curve to draw."
        return {"facts": facts, "figure": None, "note": note}
    narrow = plots.learning_curves(*rows, monitor=monitor, narrow=True)
    figure = svg_picture(plot, narrow)
    return {"facts": facts, "figure": figure, "note": ""}


_MODEL_FACTS = (
    ("parameters", "Parameters"),
    ("num_parameters", "Parameters"),
    ("macs", "Multiply-adds an image"),
)


def model_section(run: RunFolder[Any]) -> dict[str, Any] | None:
    """Return the model; None if model/config.json is missing."""
    if run.model is None:
        return None
    file = "model/config.json"
    block = run.model.get("vitral")
    block = dict(block) if isinstance(block, dict) else {}
    name = block.pop("model", None) or run.model.get("architecture", "")
    facts: Facts = [("Name", [str(name)])]
    for key, label in _MODEL_FACTS:
        value = block.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            facts.append((label, [large(value, pointer(file, "vitral", key))]))
            del block[key]
    grid = block.pop("patch_grid", None)
    if isinstance(grid, list):
        facts.append(("Patch grid", [_format_grid(grid)]))
    resize = block.pop("position_resize", None)
    if isinstance(resize, dict):
        facts.append(("Position table", [_format_resize(resize)]))
    ledger = block.pop("ledger", None)
    if isinstance(ledger, dict):
        facts.append(("Weights ledger", _format_ledger(ledger)))
    elif ledger is not None:
        block["ledger"] = ledger
    weights = run.setting("weights") or "none, from random numbers"
    facts.append(("Started from", [weights]))
    block.pop("classes", None)
    return {"facts": facts, "details": flatten(block)}


def _format_grid(value: Any) -> str:
    if isinstance(value, list):
        return " × ".join(str(side) for side in value)
    return str(value)


def _format_resize(value: dict[str, Any]) -> str:
    before, after = _format_grid(value.get("from")), _format_grid(value.get("to"))
    text = f"resized from {before} to {after}"
    return f"{text}, {value['method']}" if value.get("method") else text


def _format_ledger(value: dict[str, Any]) -> Text:
    parts: list[str | Number] = []
    for key, part in value.items():
        if isinstance(part, int) and not isinstance(part, bool):
            source = pointer("model/config.json", "vitral", "ledger", key)
            parts += [", " if parts else "", count(part, source), f" {key}"]
    return parts or [", ".join(f"{key}: {part}" for key, part in value.items())]


def versions(run: RunFolder[Any]) -> list[tuple[str, str]]:
    """Return the seed, then every line of environment.json."""
    seed = [("seed", run.setting("seed"))] if run.setting("seed") else []
    return seed + flatten(run.environment or {})


def events(run: RunFolder[Any]) -> list[tuple[Number, str]]:
    """Return the texts of metrics.jsonl with their step, then where the run stopped."""
    lines = []
    for metric in run.metrics:
        if "text" in metric.row:
            step = metric.row.get("step")
            source = pointer("metrics.jsonl", metric.line, "step")
            if isinstance(step, int):
                number = count(step, source)
            else:
                number = Number(None, NONE, source)
            lines.append((number, str(metric.row["text"])))
    sentence = unfinished_sentence(run.path)
    end = [(Number(None, NONE, ""), sentence)] if sentence else []
    return [*lines[:MOST_EVENTS], *end]
