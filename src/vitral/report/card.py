"""Model card of a run, model/README.md (arXiv 1810.03993).

Names from the data are escaped, so a class called `<script>` or `a|b` stays text.
"""

import re
from pathlib import Path
from typing import Any

from vitral.document import NONE, RunFolder, flatten, result_file, to_text
from vitral.report.data_counts import count_rows
from vitral.report.load_run import load_run_folder, task_of, verdict_of
from vitral.tasks import Result
from vitral.tasks.reporter import Reporter

MOST_OUTPUTS = 50


def model_card(run: Path) -> str:
    """Return the Markdown text of a model card, from the files of a run folder.

    Raises:
        ConfigError: the folder is not a run, or a file in it is damaged.
    """
    folder = load_run_folder(Path(run))
    reporter = task_of(folder).reporter()
    config = folder.model or {}
    block = config.get("vitral")
    block = block if isinstance(block, dict) else {}
    parts = [
        _overview(folder, config, reporter.subject),
        _results(folder, reporter),
        _outputs(*reporter.card_outputs(folder)),
        _data(folder),
        _preprocess(block),
        _limits(reporter.limits(folder)),
        _loading(block, reporter.outputs_name),
        _license(config, block),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    # A lone surrogate of a file's name or of a stranger's JSON cannot be written.
    return text.encode("utf-8", "replace").decode()


def escape(text: str) -> str:
    """Escape a text for Markdown and the HTML in it."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def _overview(run: RunFolder[Result], config: dict[str, Any], subject: str) -> str:
    model = run.model_name or str(config.get("architecture") or "unnamed")
    weights = run.setting("weights")
    start = f"the weights {escape(weights)}" if weights else "random numbers"
    text = f"# {escape(run.name)}\n\n"
    text += f"{subject} ({escape(model)}), trained from {start}."
    if run.command:
        # No character of the command can end an indented code block.
        text += f"\n\nMade with:\n\n    {' '.join(run.command.split())}"
    return text


def _results(run: RunFolder[Result], reporter: Reporter) -> str:
    summary = verdict_of(run, reporter)
    lines = ["## Results", "", escape(to_text(summary.text))]
    for remark in summary.remarks:
        lines += ["", f"- {escape(to_text(remark.text))}"]
    if run.results:
        lines += ["", "| split | images | measure | value | 95 % interval |"]
        lines.append("|---|---:|---|---:|---|")
    for split, result in run.results.items():
        file = result_file(split)
        for measure in reporter.card_measures(result):
            number = measure.number(result, file).text
            ends = to_text(measure.interval(result, file)) or NONE
            lines.append(
                f"| {escape(split)} | {result.n} | {escape(measure.name)} | {number} "
                f"| {ends} |"
            )
    return "\n".join(lines)


def _outputs(title: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(escape(name) for name in names[:MOST_OUTPUTS])
    more = ", and more in config.json" if len(names) > MOST_OUTPUTS else ""
    return f"## {title}\n\n{len(names)}, in the order of the outputs: {shown}{more}."


def _data(run: RunFolder[Result]) -> str:
    if run.data is None:
        return "## Data\n\nUnknown: the run holds no data.json."
    rows = count_rows(run.data)
    totals = "; ".join(
        f"{name}: {escape(', '.join(f'{split} {n.value}' for split, n in row.items()))}"
        if row
        else f"{name}: unknown"
        for name, row in rows.items()
    )
    name = escape(str(run.data.get("name") or "unnamed"))
    lines = [f"## Data\n\n{name}; {totals}."]
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


def _limits(sentences: list[str]) -> str:
    lines = [f"- {escape(sentence)}" for sentence in sentences]
    return "## Limits\n\n" + "\n".join(lines)


def _loading(block: dict[str, Any], outputs: str) -> str:
    text = (
        "## Loading\n\n```python\nimport vitral as vt\n\n"
        'model, preprocess, ledger = vt.load("model/")\n'
        f'{outputs} = model(preprocess("image.jpg")[None])\n```'
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
