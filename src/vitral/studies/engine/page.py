"""A study on paper: table, figure, verdict, and what they were made with.

The page is Markdown with the figure beside it, so that it reads on any host of
documents; `result.json` has every number of it.
"""

from pathlib import Path
from typing import Any, NamedTuple

from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.studies.engine.base import Size, Study
from vitral.studies.engine.table import ResultTable


class Provenance(NamedTuple):
    """How a result was made, for whoever repeats it."""

    command: str
    size: Size
    seeds: tuple[int, ...]
    trials: int
    fresh: int
    """Those of them that were not kept from an earlier start."""
    wall_seconds: float
    """Of this start."""
    cpu_seconds: float
    """Of one core, for all trials together."""
    machine: str


def table_lines(study: Study, table: ResultTable) -> list[str]:
    """The table in Markdown, shaped as the paper's, theirs beside ours."""
    columns = table.columns
    theirs = {place for place in study.paper_values if place in table.results}
    header, under = [study.row_header or " "], ["---"]
    for column in columns:
        header.append(f"{column or study.measure}, here")
        under.append("---:")
        if any(there == column for _, there in theirs):
            header.append(f"{column or study.measure}, the paper's")
            under.append("---:")
    lines = [_markdown_row(header), _markdown_row(under)]
    for row in table.rows:
        cells = [row]
        for column in columns:
            there = (row, column) in table.results
            cells.append(str(table.cell_stats(row, column)) if there else "–")
            if any(name == column for _, name in theirs):
                value = study.paper_values.get((row, column))
                cells.append("–" if value is None else f"*{100 * value:.2f}*")
        lines.append(_markdown_row(cells))
    return lines


def detail_lines(table: ResultTable) -> list[str]:
    """One line a place: size and cost of the model, the choices, every seed."""
    lines = [
        _markdown_row(
            ["row", "column", "parameters", "MMACs", "seconds", "chosen", "seeds"]
        ),
        _markdown_row(["---", "---", "---:", "---:", "---:", "---", "---"]),
    ]
    for (row, column), runs in table.results.items():
        chosen = ", ".join(dict.fromkeys(run.choice for run in runs if run.choice))
        lines.append(
            _markdown_row(
                [
                    row,
                    column or "–",
                    f"{runs[0].parameters:,}",
                    f"{runs[0].macs / 1e6:.2f}",
                    f"{sum(run.seconds for run in runs) / len(runs):.0f}",
                    chosen or "–",
                    ", ".join(f"{100 * run.accuracy:.1f}" for run in runs),
                ]
            )
        )
    return lines


def write_page(
    study: Study, table: ResultTable, provenance: Provenance, folder: Path
) -> Path:
    """`<name>.md`, `<name>.png` and `result.json` in `folder`; gives the page."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = {
        place: [run.accuracy for run in runs] for place, runs in table.results.items()
    }
    plot = plots.seed_accuracies(
        shares, title=f"Study: {study.name}", measure=study.measure
    )
    write_atomic(folder / f"{study.name}.png", plots.to_png(plot.figure))
    verdict = study.verdict(table)
    theirs = []
    if study.paper_note:
        theirs = [f"The paper's numbers are theirs, not ours: {study.paper_note}", ""]
    seeds = ", ".join(map(str, provenance.seeds))
    clock = (
        f"{provenance.wall_seconds / 60:.1f} minutes by the clock, other work included"
    )
    if provenance.fresh < provenance.trials:
        clock = (
            f"{provenance.trials - provenance.fresh} of them kept from an earlier start"
        )
    lines = [
        f"# Study: {study.name}",
        "",
        study.question,
        f"Asked in {study.source}.",
        "",
        f"**Verdict.** {verdict}",
        "",
        *table_lines(study, table),
        "",
        f"{study.measure.capitalize()} in per cent, mean ± standard deviation over "
        f"{len(provenance.seeds)} seeds, each with a split of its own.",
        *theirs,
        f"![{plot.alt}]({study.name}.png)",
        "",
        "## How it was made",
        "",
        study.setting[provenance.size],
        "",
        "```sh",
        provenance.command,
        "```",
        "",
        f"{provenance.trials} trainings, seeds {seeds}: "
        f"{provenance.cpu_seconds / 60:.1f} minutes "
        f"of one core in all, on {provenance.machine}; {clock}.",
        "",
        *detail_lines(table),
        *([] if study.notes is None else ["", *study.notes(provenance.size)]),
    ]
    write_atomic(folder / f"{study.name}.md", "\n".join(lines) + "\n")
    result: dict[str, Any] = {
        "study": study.name,
        "verdict": verdict,
        **provenance._asdict(),
        "table": table.to_dict(),
    }
    write_json(folder / "result.json", result)
    return folder / f"{study.name}.md"


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
