"""Run a study: train its trials, build the table, write the page."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitral import config_io
from vitral.atomic_io import write_json
from vitral.studies.engine.base import Size, Study, ordered_trials
from vitral.studies.engine.cost import estimate_costs
from vitral.studies.engine.page import Provenance, write_page
from vitral.studies.engine.scheduler import (
    TrialScheduler,
    build_table,
    total_cpu_seconds,
)
from vitral.studies.engine.table import ResultTable


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Result of a study."""

    table: ResultTable
    verdict: str
    page: Path


def run_study(
    study: Study,
    out: str | Path,
    *,
    size: Size = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 0,
    device: str = "auto",
    command: str = "",
) -> StudyResult:
    """Run all trials of a study and write its page into `out`.

    Finished trials of an earlier start are not repeated.

    Args:
        jobs: trials at a time; 0 for one per core, or one on a GPU.
        command: the command line that repeats it, for the page.

    Raises:
        VitralError: raised by a training.
    """
    folder = Path(out).resolve()
    started = time.monotonic()
    trials = ordered_trials(study, size, seeds)
    if study.prepare is not None:
        study.prepare(size, seeds, folder)
    scheduler = TrialScheduler(folder, jobs or _default_jobs(device), device)
    done = scheduler.run(trials)
    table = build_table(trials, done)
    provenance = Provenance(
        command=command,
        size=size,
        seeds=tuple(seeds),
        trials=len(trials),
        fresh=sum(cell.fresh for cell in done.values()),
        wall_seconds=round(time.monotonic() - started, 1),
        cpu_seconds=round(total_cpu_seconds(done), 1),
        machine=describe_machine(),
    )
    page = write_page(study, table, provenance, folder)
    return StudyResult(table, study.verdict(table), page)


def describe_plan(study: Study, size: Size, seeds: Sequence[int]) -> list[str]:
    """Return one line per trial with its cost, and a total; nothing is trained."""
    trials = ordered_trials(study, size, seeds)
    costs = estimate_costs(trials)
    width = max(len(key) for key in costs)
    lines = [
        f"{key:{width}}  {cost.parameters / 1e6:8.1f} M parameters  "
        f"{cost.model.macs() / 1e9:7.2f} GMACs  {cost.images / 1e6:8.1f} M images  "
        f"{cost.exaflops:8.1f} exaFLOPs  {cost.state_bytes / 2**30:5.1f} GiB of state"
        for key, cost in costs.items()
    ]
    total = sum(cost.exaflops for cost in costs.values())
    # A100 at 40 % of its 312 bf16 TFLOPs: a rough estimate.
    hours = total * 1e18 / (0.4 * 312e12) / 3600
    lines.append(
        f"in all: {len(trials)} trainings, {total:,.0f} exaFLOPs, about {hours:,.0f} "
        "hours of one A100 at 40 % of its bfloat16 peak"
    )
    return lines


def write_recipes(study: Study, size: Size, seeds: Sequence[int], folder: Path) -> Path:
    """Write all settings of all trials as JSON; return the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        trial.key: {
            "begins with": trial.after or None,
            "config": config_io.to_dict(trial.config),
        }
        for trial in ordered_trials(study, size, seeds)
    }
    file = folder / f"{study.name}-{size}.json"
    write_json(file, settings)
    return file


def describe_machine() -> str:
    """Return the number of cores and the processor's name."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()} cores of {name}"


def _default_jobs(device: str) -> int:
    import torch

    if device not in ("auto", "cpu") or (
        device == "auto" and torch.cuda.is_available()
    ):
        return 1
    return os.cpu_count() or 1
