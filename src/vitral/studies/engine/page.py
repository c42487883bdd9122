"""Page of a study: Markdown table, figure, verdict and provenance.

`result.json` has every number of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.studies.engine.base import Size, Study
from vitral.studies.engine.table import ResultTable


@dataclass(frozen=True, slots=True)
class Provenance:
    """Command, settings and cost of a result."""

    command: str
    size: Size
    seeds: tuple[int, ...]
    trials: int
    fresh: int
    """Trials that this start computed."""
    wall_seconds: float
    """Wall-clock seconds of this start."""
    cpu_seconds: float
    """Seconds of one core, of all trials together."""
    machine: str


def table_lines(study: Study, table: ResultTable) -> list[str]:
    """Return the table in Markdown, with the paper's numbers next to ours."""
    columns = table.columns
    paper_columns = {
        column for row, column in study.paper_values if (row, column) in table.results
    }
    header = [study.row_header or " "]
    for column in columns:
        header.append(f"{column or study.measure}, here")
        if column in paper_columns:
            header.append(f"{column or study.measure}, the paper's")
    rows = []
    for row in table.rows:
        cells = [row]
        for column in columns:
            measured = (row, column) in table.results
            cells.append(str(table.cell_stats(row, column)) if measured else "–")
            if column in paper_columns:
                value = study.paper_values.get((row, column))
                cells.append("–" if value is None else f"*{100 * value:.2f}*")
        rows.append(cells)
    return markdown_table(header, rows)


def detail_lines(table: ResultTable) -> list[str]:
    """Return one line per cell: size and cost of the model, choices, every seed."""
    rows = []
    for (row, column), runs in table.results.items():
        chosen = ", ".join(dict.fromkeys(run.choice for run in runs if run.choice))
        cells = [
            row,
            column or "–",
            f"{runs[0].parameters:,}",
            f"{runs[0].macs / 1e6:.2f}",
            f"{sum(run.seconds for run in runs) / len(runs):.0f}",
            chosen or "–",
            ", ".join(f"{100 * run.accuracy:.1f}" for run in runs),
        ]
        rows.append(cells)
    header = ["row", "column", "parameters", "MMACs", "seconds", "chosen", "seeds"]
    marks = ["---", "---", "---:", "---:", "---:", "---", "---"]
    return markdown_table(header, rows, marks)


def write_page(
    study: Study, table: ResultTable, provenance: Provenance, folder: Path
) -> Path:
    """Write `<name>.md`, `<name>.png` and `result.json`; return the page's path."""
    accuracies = {
        cell: [run.accuracy for run in runs] for cell, runs in table.results.items()
    }
    plot = plots.seed_accuracies(
        accuracies, title=f"Study: {study.name}", measure=study.measure
    )
    verdict = study.verdict(table)
    theirs = f"The paper's numbers are theirs, not ours: {study.paper_note}"
    seeds = ", ".join(map(str, provenance.seeds))
    clock = (
        f"{provenance.trials - provenance.fresh} of them kept from an earlier start"
        if provenance.fresh < provenance.trials
        else f"{provenance.wall_seconds / 60:.1f} minutes by the clock, other work "
        "included"
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
        *([theirs, ""] if study.paper_note else []),
        f"![{plot.alt}]({study.name}.png)",
        "",
        "## How it was made",
        "",
        study.setting[provenance.size],
        "",
        *command_lines(provenance.command),
        "",
        f"{provenance.trials} trainings, seeds {seeds}: "
        f"{provenance.cpu_seconds / 60:.1f} minutes "
        f"of one core in all, on {provenance.machine}; {clock}.",
        "",
        *detail_lines(table),
        *([] if study.notes is None else ["", *study.notes(provenance.size)]),
    ]
    result: dict[str, Any] = {
        "study": study.name,
        "verdict": verdict,
        **asdict(provenance),
        "table": table.to_dict(),
    }
    return write_files(folder, study.name, plot, lines, result)


def write_files(
    folder: Path,
    name: str,
    plot: plots.Plot,
    lines: Sequence[str],
    result: Mapping[str, Any],
) -> Path:
    """Write `NAME.png`, `NAME.md` and `result.json`; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.png", plots.to_png(plot.figure))
    page = folder / f"{name}.md"
    write_atomic(page, "\n".join(lines) + "\n")
    write_json(folder / "result.json", result)
    return page


def command_lines(command: str) -> list[str]:
    """Return a Markdown block of a shell command."""
    return ["```sh", command, "```"]


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], marks: Sequence[str] = ()
) -> list[str]:
    """Return a table in Markdown.

    Args:
        marks: alignment of each column; empty: the first left, the others right.
    """
    marks = marks or ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)]
