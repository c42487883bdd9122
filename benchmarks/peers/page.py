"""Render the result as Markdown, and insert it into a page.

The text between the lines `<!-- bench -->` and `<!-- end of bench -->` is replaced.
"""

from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic
from vitral.errors import ConfigError

BEGIN = "<!-- bench -->"
END = "<!-- end of bench -->"
PICTURE = "bench.png"


def markdown(result: dict[str, Any], command: str, picture: str = PICTURE) -> str:
    """Return machine, bounds and tables as Markdown."""
    parts = [_machine_section(result, command)]
    if result["targets"]:
        parts.append(_targets(result["targets"]))
    if result.get("inference") or result.get("training"):
        parts.append(f"![How many times as fast vitral is]({picture})")
    for part, title in (("inference", "Forward pass"), ("training", "Training step")):
        for cell in result.get(part, []):
            heading = f"### {title} of {cell['model']}, batch {cell['batch']}"
            parts.append(f"{heading}\n\n{_timing_table(cell)}")
    for cell in result.get("memory", []):
        heading = f"### Memory of training {cell['model']}, batch {cell['batch']}"
        parts.append(f"{heading}\n\n{_memory(cell)}")
    for cell in result.get("loading", []):
        parts.append(f"### Loading\n\n{_loading(cell)}")
    for cell in result.get("startup", []):
        parts.append(f"### Start-up\n\n{_startup(cell)}")
    return "\n\n".join(parts) + "\n"


def insert_into_page(page: Path, text: str) -> None:
    """Replace the text between the markers of a page.

    Raises:
        ConfigError: the page cannot be read, or lacks the markers in order.
    """
    try:
        old = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The page {page} cannot be read: {error}.") from error
    before, begin, rest = old.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(
            f"The page {page} has no place for the result: it needs a line `{BEGIN}` "
            f"and below it a line `{END}`."
        )
    write_atomic(page, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _machine_section(result: dict[str, Any], command: str) -> str:
    machine = result["machine"]
    versions = ", ".join(
        f"{name} {number}" for name, number in machine["versions"].items() if number
    )
    unit = f" with {machine['matrix_unit']}" if machine["matrix_unit"] else ""
    load = "unknown" if machine["load"] is None else f"{machine['load']:.1f}"
    lines = [
        f"```sh\n{command}\n```",
        "",
        f"{machine['when']}, {result['seconds']} s. {machine['processor']}, "
        f"{machine['cores']} cores ({machine['instructions']}{unit}), "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}; "
        f"{machine['threads']} threads, load {load} at the start. {versions}.",
    ]
    if peaks := [
        cell["peak_flops"]
        for part in ("inference", "training")
        for cell in result.get(part, [])
    ]:
        low, high = (f"{peak / 1e9:.0f}" for peak in (min(peaks), max(peaks)))
        lines += [
            "",
            "The quickest float32 product of two matrices of 2048 x 2048 made "
            f"{low} to {high} GFLOP/s in this run; `of peak` is the share of it that "
            "the model's own operations come to.",
        ]
    for name, reason in result["absent"].items():
        lines += ["", f"Not measured: {name} ({reason})."]
    return "\n".join(lines)


def _targets(targets: list[dict[str, Any]]) -> str:
    rows = [
        [
            target["text"],
            f"{target['value']:.3f}",
            target["bound"],
            "met" if target["met"] else "**not met**",
        ]
        for target in targets
    ]
    return _table(["bound", "measured", "wanted", ""], rows)


def _timing_table(cell: dict[str, Any]) -> str:
    rows = []
    for row in cell["rows"]:
        low, high = row["ratio_quartiles"]
        base = row["against"] == row["name"]
        share = row["share_of_peak"]
        rows.append(
            [
                row["name"],
                f"{1000 * row['seconds']:.1f}",
                f"{1000 * row['cpu_seconds']:.1f}",
                f"{cell['batch'] / row['seconds']:.2f}",
                "" if share is None else f"{100 * share:.0f} %",
                "1" if base else f"{row['ratio']:.3f} ({low:.3f} to {high:.3f})",
                "" if base else row["against"],
            ]
        )
    head = ["", "ms", "CPU ms", "images/s", "of peak", "times as fast as", ""]
    return f"{_table(head, rows)}\n\nMedians of {cell['rounds']} turns; quartiles."


def _memory(cell: dict[str, Any]) -> str:
    ours = {row["name"]: row for row in cell["rows"]}
    base = ours.get("timm")
    rows = [
        [
            row["name"],
            f"{row['peak_mb']:.0f}",
            f"{row['above_imports_mb']:.0f}",
            f"{row['peak_mb'] / base['peak_mb']:.2f}" if base else "",
        ]
        for row in cell["rows"]
    ]
    head = ["", "peak, MB", "above the imports, MB", "of timm's peak"]
    return (
        f"{_table(head, rows)}\n\nOf two steps with AdamW, each side in a process of "
        "its own; a megabyte is 2^20 bytes."
    )


def _loading(cell: dict[str, Any]) -> str:
    rows = []
    for row in cell["rows"]:
        low, high = row["ratio_quartiles"]
        base = row["against"] == row["name"]
        rate = cell["images"] // cell["batch"] * cell["batch"] / row["seconds"]
        ratio = "1" if base else f"{row['ratio']:.3f} ({low:.3f} to {high:.3f})"
        rows.append([row["name"], f"{rate:.0f}", ratio])
    return (
        f"{_table(['', 'images/s', 'times as fast as vitral'], rows)}\n\n"
        f"{cell['images']} files of 500 x 375 pixels in batches of {cell['batch']}, "
        f"without worker processes; medians of {cell['rounds']} turns; quartiles."
    )


def _startup(cell: dict[str, Any]) -> str:
    rows = []
    for row in cell["rows"]:
        low, high = row["quartiles"]
        rows.append(
            [f"`{row['name']}`", f"{row['seconds']:.3f} ({low:.3f} to {high:.3f})"]
        )
    return (
        f"{_table(['', 'seconds'], rows)}\n\nMedians of {cell['rounds']} fresh "
        "processes; quartiles. An import without the start of Python, the help with it."
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
