"""Run the study of families on growing subsets and write its page."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.studies.engine import (
    ResultTable,
    TrialScheduler,
    build_table,
    describe_machine,
    detail_lines,
    total_cpu_seconds,
)
from vitral.studies.families import (
    BATCH,
    STEPS,
    FamiliesPlan,
    families_verdict,
    plan_families,
)

QUESTION = (
    "Which family learns most from few images and which from many, ResNet or Vision "
    "Transformer, at about equal compute?"
)
SOURCE = "arXiv 2010.11929, figure 4"


@dataclass(frozen=True, slots=True)
class FamiliesResult:
    """Result of the comparison."""

    table: ResultTable
    lines: list[str]
    """The table in Markdown."""
    verdict: str
    page: Path


def run_families_study(
    families: Sequence[str],
    data: str,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    fractions: Sequence[float] = (),
    jobs: int = 1,
    device: str = "auto",
    command: str = "",
) -> FamiliesResult:
    """Train every family on every subset and write the page into `out`.

    Finished trainings of an earlier start are not repeated.

    Args:
        jobs: trainings at a time.
        command: the command line that repeats it, for the page.

    Raises:
        VitralError: raised by the plan or a training.
    """
    folder = Path(out)
    started = time.monotonic()
    plan = plan_families(families, data, seeds, fractions=fractions, folder=folder)
    done = TrialScheduler(folder, jobs, device).run(plan.trials)
    table = build_table(plan.trials, done)
    verdict = families_verdict(plan, table)
    lines = _table_lines(plan, table)
    page = folder / "families.md"
    plot = _figure(plan, table, data)
    write_atomic(folder / "families.png", plots.to_png(plot.figure))
    text = [
        f"# Study: data-size, families on {data}",
        "",
        f"{QUESTION} Asked in {SOURCE}.",
        "",
        f"**Verdict.** {verdict}",
        "",
        f"![{plot.alt}](families.png)",
        "",
        *lines,
        "",
        "Test accuracy in per cent, mean ± standard deviation over "
        f"{len(seeds)} seeds; each seed splits anew and has its own nested subsets. "
        "The paper has a graph only, of 5-shot accuracy after pre-training on parts of "
        "JFT-300M, so no number of it stands beside ours.",
        "",
        "## How it was made",
        "",
        f"Every model is trained from zero for {STEPS} updates of {BATCH} images with "
        "the same settings, whatever the size of its subset; the best step on the same "
        f"val images is measured on the same {plan.test_images:,} test images.",
        "",
        "```sh",
        command,
        "```",
        "",
        f"{len(plan.trials)} trainings, {total_cpu_seconds(done):.0f} s of one "
        f"core in all, {time.monotonic() - started:.0f} s by the clock, on "
        f"{describe_machine()}.",
        "",
        *detail_lines(table),
    ]
    write_atomic(page, "\n".join(text) + "\n")
    write_json(
        folder / "result.json",
        {
            "study": "data-size families",
            "data": data,
            "verdict": verdict,
            "command": command,
            "seeds": list(seeds),
            "sizes": list(plan.sizes),
            "test_images": plan.test_images,
            "machine": describe_machine(),
            "table": table.to_dict(),
        },
    )
    return FamiliesResult(table, lines, verdict, page)


def _table_lines(plan: FamiliesPlan, table: ResultTable) -> list[str]:
    lines = [
        f"| training images | {' | '.join(plan.families)} |",
        f"| ---: | {' | '.join('---:' for _ in plan.families)} |",
    ]
    for size in plan.sizes:
        values = [
            str(table.cell_stats(f"{size:,} images", family))
            for family in plan.families
        ]
        lines.append(f"| {size:,} | {' | '.join(values)} |")
    return lines


def _figure(plan: FamiliesPlan, table: ResultTable, data: str) -> plots.Plot:
    series = {}
    for family in plan.families:
        runs = [
            (size, run.accuracy)
            for size in plan.sizes
            for run in table.results[f"{size:,} images", family]
        ]
        series[family] = plots.DataSizeSeries(
            [size for size, _ in runs], [accuracy for _, accuracy in runs]
        )
    return plots.data_size_curves(series, title=f"Trained from zero on parts of {data}")
