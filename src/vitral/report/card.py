"""Model card of a run, model/README.md (arXiv 1810.03993).

Names from the data are escaped, so a class called `<script>` or `a|b` stays text.
"""

import re
from pathlib import Path
from typing import Any

from vitral.report.load_run import Result, RunFolder, load_run_folder
from vitral.report.numbers import NONE, flatten, interval, share, to_text
from vitral.report.verdict import FEW_IMAGES, verdict
from vitral.tasks.classification import Classification, MultiLabel

MOST_CLASSES = 50


def model_card(run: Path) -> str:
    """Return the Markdown text of a model card, from the files of a run folder.

    Raises:
        ConfigError: the folder is not a run, or a file in it is damaged.
    """
    folder = load_run_folder(Path(run))
    config = folder.model or {}
    block = config.get("vitral")
    block = block if isinstance(block, dict) else {}
    parts = [
        _overview(folder, config),
        _results(folder),
        _classes(folder),
        _data(folder),
        _preprocess(block),
        _limits(folder),
        _loading(block),
        _license(config, block),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Escape a text for Markdown and the HTML in it."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def _overview(run: RunFolder, config: dict[str, Any]) -> str:
    model = run.model_name or str(config.get("architecture") or "unnamed")
    weights = run.setting("weights")
    start = f"the weights {escape(weights)}" if weights else "random numbers"
    text = f"# {escape(run.name)}\n\n"
    text += f"An image classifier ({escape(model)}), trained from {start}."
    if run.command:
        # No character of the command can end an indented code block.
        text += f"\n\nMade with:\n\n    {' '.join(run.command.split())}"
    return text


def _results(run: RunFolder) -> str:
    summary = verdict(run)
    lines = ["## Results", "", escape(to_text(summary.text))]
    for remark in summary.remarks:
        lines += ["", f"- {escape(to_text(remark.text))}"]
    if run.results:
        lines += ["", "| split | images | measure | value | 95 % interval |"]
        lines.append("|---|---:|---|---:|---|")
    for split, result in run.results.items():
        for field, name in _measures(result):
            value = getattr(result, field)
            limits = getattr(result, f"{field}_interval", None)
            number = f"{value:.3f}" if field == "ece" else share(value, "").text
            ends = to_text(interval(limits, "")) if limits else NONE
            lines.append(
                f"| {escape(split)} | {result.n} | {name} | {number} | {ends} |"
            )
    return "\n".join(lines)


def _measures(result: Result) -> list[tuple[str, str]]:
    if isinstance(result, MultiLabel):
        return [
            ("mean_average_precision", "mean average precision"),
            ("exact_match", "every label right"),
        ]
    names = [
        ("top1", "top-1 accuracy"),
        ("top5", "top-5 accuracy"),
        ("balanced_accuracy", "balanced accuracy"),
        ("macro_f1", "macro-F1"),
        ("ece", "expected calibration error"),
        ("majority", "most frequent class"),
    ]
    return [pair for pair in names if getattr(result, pair[0]) is not None]


def _classes(run: RunFolder) -> str:
    names = [str(name) for name in (run.data or {}).get("classes") or []]
    if not names:
        return ""
    shown = ", ".join(escape(name) for name in names[:MOST_CLASSES])
    more = ", and more in config.json" if len(names) > MOST_CLASSES else ""
    return f"## Classes\n\n{len(names)}, in the order of the outputs: {shown}{more}."


def _data(run: RunFolder) -> str:
    if run.data is None:
        return "## Data\n\nUnknown: the run holds no data.json."
    counts = run.data.get("counts") or {}
    totals = ", ".join(
        f"{split} {sum(rows.values())}" for split, rows in counts.items()
    )
    name = escape(str(run.data.get("name") or "unnamed"))
    lines = [f"## Data\n\n{name}; images: {escape(totals) or 'unknown'}."]
    if run.data.get("bad"):
        lines.append(f"Files that could not be decoded: {len(run.data['bad'])}.")
    lines.append(
        f"Fingerprint: {escape(str(run.data.get('fingerprint') or 'unknown'))}."
    )
    return " ".join(lines)


def _preprocess(block: dict[str, Any]) -> str:
    rows = flatten(block.get("preprocess") or {})
    if not rows or rows == [("", NONE)]:
        return ""
    lines = [
        "## Preprocessing",
        "",
        "`vitral` does this by itself when it loads the model.",
    ]
    lines += ["", "| field | value |", "|---|---|"]
    lines += [f"| {escape(name)} | {escape(value)} |" for name, value in rows]
    return "\n".join(lines)


def _limits(run: RunFolder) -> str:
    lines = [
        "- It always answers one of its classes, for any image, also for one that "
        "shows none of them.",
        "- The numbers hold for images like those it was measured on: same cameras, "
        "same places, same shares of the classes.",
    ]
    result = run.results.get(run.headline_split or "")
    if result is None:
        lines.append("- It has not been measured.")
    elif result.n < FEW_IMAGES:
        lines.append(f"- It was measured on {result.n} images only.")
    if isinstance(result, Classification):
        weak = [
            row.name
            for row in result.per_class
            if row.recall is None or row.recall_interval.low < 0.5
        ]
        if weak:
            names = ", ".join(escape(name) for name in weak[:10])
            more = " and others" if len(weak) > 10 else ""
            lines.append(
                "- For these classes it is not shown that it finds at least half of "
                f"the images: {names}{more}."
            )
    return "## Limits\n\n" + "\n".join(lines)


def _loading(block: dict[str, Any]) -> str:
    text = (
        "## Loading\n\n```python\nimport vitral as vt\n\n"
        'model, preprocess, ledger = vt.load("model/")\n'
        'logits = model(preprocess("image.jpg")[None])\n```'
    )
    if block.get("timm") is True:
        text += (
            "\n\nor, with timm:\n\n```python\nimport timm\n\n"
            'model = timm.create_model("local-dir:model/", pretrained=True).eval()\n```'
        )
    return text


def _license(config: dict[str, Any], block: dict[str, Any]) -> str:
    stated = block.get("license") or (config.get("pretrained_cfg") or {}).get("license")
    text = escape(str(stated)) if stated else "Unknown: no licence was stated for them."
    return f"## Licence of the weights\n\n{text}"
