"""Scheduler: runs the trials of a study in parallel, each in its own run folder.

Finished trials are cached; unfinished ones resume from their last checkpoint. The
processes share the cores evenly.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vitral import config_io
from vitral.child_process import get_process_context
from vitral.data.split import held_out
from vitral.models import count_parameters
from vitral.studies.engine.base import STUDY_DIR, Student, Trial
from vitral.studies.engine.table import ResultTable, SeedResult
from vitral.workflows import TrainConfig, open_run
from vitral.workflows.result_cache import CachedResult, ResultCache
from vitral.workflows.runtime import Runtime
from vitral.workflows.self_training import self_train
from vitral.workflows.train import train

logger = logging.getLogger(__name__)

_TRIAL_LOCK = threading.Lock()
"""Held while this worker process computes a trial."""


@dataclass(frozen=True, slots=True)
class TrialScheduler:
    """Runs trials in a process pool."""

    folder: Path
    """Gets `runs/`, with a run folder per trial, and `cells/`, with the results."""
    jobs: int
    """Trials at a time."""
    device: str

    def run(self, trials: Sequence[Trial]) -> dict[str, CachedResult]:
        """Return the result of every trial by key, in the order of `trials`.

        Raises:
            VitralError: raised by a training; the others' results are cached.
        """
        folders = self._run_folders(trials)
        waiting = list(trials)
        done: dict[str, CachedResult] = {}
        running: dict[Future[CachedResult], Trial] = {}
        context = get_process_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        arguments = (threads, os.getpid())
        with ProcessPoolExecutor(self.jobs, context, _init_worker, arguments) as pool:
            try:
                while waiting or running:
                    ready = [
                        trial
                        for trial in waiting
                        if trial.depends_on in done or not trial.depends_on
                    ]
                    for trial in ready[: self.jobs - len(running)]:
                        waiting.remove(trial)
                        running[self._submit(pool, trial, folders)] = trial
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        trial = running.pop(future)
                        done[trial.key] = future.result()
                        self._log_progress(
                            trial, done[trial.key], len(done), len(trials)
                        )
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {trial.key: done[trial.key] for trial in trials}

    def _submit(
        self, pool: ProcessPoolExecutor, trial: Trial, folders: dict[str, Path]
    ) -> "Future[CachedResult]":
        """Start a trial whose paths are those of the study's folder."""
        config, student, root = trial.config, trial.student, str(self.folder)
        weights = str(folders[trial.after]) if trial.after else config.weights
        config = replace(
            config,
            data=config.data.replace(STUDY_DIR, root, 1),
            weights=weights.replace(STUDY_DIR, root, 1),
        )
        if student is not None:
            student = replace(
                student,
                teacher=str(folders[student.teacher]),
                unlabelled=student.unlabelled.replace(STUDY_DIR, root, 1),
                truth=student.truth.replace(STUDY_DIR, root, 1),
            )
        trial_here = replace(trial, config=config, student=student)
        out = folders[trial.key]
        return pool.submit(_run_trial, trial_here, out, self.folder, self.device)

    def _run_folders(self, trials: Sequence[Trial]) -> dict[str, Path]:
        """Return the run folder of each trial; its name hashes the settings."""
        folders: dict[str, Path] = {}
        for trial in trials:
            text = json.dumps(config_io.to_dict(trial.config), sort_keys=True)
            parent = folders[trial.depends_on].name if trial.depends_on else ""
            if trial.student is not None:
                text += json.dumps(asdict(trial.student.settings), sort_keys=True)
            digest = hashlib.sha256(f"{text} {parent}".encode()).hexdigest()[:8]
            name = "".join(c if c.isalnum() else "-" for c in trial.key)
            folders[trial.key] = self.folder / "runs" / f"{name}-{digest}"
        return folders

    def _log_progress(
        self, trial: Trial, cell: CachedResult, count: int, total: int
    ) -> None:
        note = "" if cell.fresh else ", kept from before"
        logger.info(
            f"[{count}/{total}] {trial.key}: {100 * cell.result['test']:.1f} % "
            f"({cell.seconds:.0f} s{note})"
        )


def build_table(trials: Sequence[Trial], done: dict[str, CachedResult]) -> ResultTable:
    """Return the table of a study; of competing trials the best on val counts."""
    groups: dict[tuple[str, str], dict[int, list[Trial]]] = {}
    for trial in trials:
        if trial.counts:
            groups.setdefault(trial.cell, {}).setdefault(trial.seed, []).append(trial)
    table: dict[tuple[str, str], list[SeedResult]] = {}
    for cell, seeds in groups.items():
        for seed, group in seeds.items():
            best = max(group, key=lambda trial: done[trial.key].result["val"])
            result = done[best.key].result
            seed_result = SeedResult(
                seed=seed,
                accuracy=result["test"],
                val=result["val"],
                choice=best.choice,
                macs=result["macs"],
                parameters=result["parameters"],
                seconds=sum(done[trial.key].seconds for trial in group),
            )
            table.setdefault(cell, []).append(seed_result)
    return ResultTable(table)


def _init_worker(threads: int, parent: int) -> None:
    """Limit the threads of a new process, and exit it with its parent."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """Stop the trial with SIGTERM after the parent's exit, then exit.

    The pool's worker would wait for work for ever, since its siblings hold the other
    end of its pipe.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    with _TRIAL_LOCK:
        os._exit(128 + signal.SIGTERM)


def _run_trial(trial: Trial, out: Path, folder: Path, device: str) -> CachedResult:
    """Train, or return the cached result, in a worker process."""
    inputs = {"config": config_io.to_dict(trial.config), "run": out.name}
    started = time.process_time()

    def compute() -> dict[str, Any]:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            (out.parent / f"{out.name}.log").open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            if trial.student is None:
                runtime = Runtime(device=device)
                train(trial.config, out, resume=out.exists(), runtime=runtime)
            else:
                _run_self_training(trial.student, trial.config, out, device)
        seconds = round(time.process_time() - started, 2)
        return {**_read_result(out), "cpu_seconds": seconds}

    name = "".join(c if c.isalnum() or c in " ,.-" else "_" for c in trial.key)
    with _TRIAL_LOCK:
        return ResultCache(folder / "cells").get_or_compute(name, inputs, compute)


def _run_self_training(
    student: Student, config: TrainConfig, out: Path, device: str
) -> None:
    """Run one round in a folder of its own, and copy its run to `out`."""
    folder = out.parent.parent / "self-training" / out.name
    done = self_train(
        config,
        student.unlabelled,
        folder,
        teacher=student.teacher,
        settings=student.settings,
        truth=student.truth or None,
        runtime=Runtime(device=device),
    )
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(done.results[-1].path, out)


def _read_result(out: Path) -> dict[str, Any]:
    """Return the numbers of a finished run."""
    run = open_run(out)
    if run.classes:
        metrics = run.metrics
        measured = metrics[held_out(metrics)]
        val = metrics["val"]["top1"] if "val" in metrics else 0.0
        test = measured["top1"]
    else:
        # A run without classes, which prepares others, has its kNN accuracy.
        splits = json.loads((out / "representation.json").read_text())["splits"]
        measured = splits.get(held_out(splits)) or {"n": 0, "knn": None}
        val, test = 0.0, measured["knn"]["accuracy"] if measured["knn"] else 0.0
    return {
        "val": val,
        "test": test,
        "n": measured["n"],
        "macs": run.model.config.macs(),
        "parameters": count_parameters(run.model),
    }


def total_cpu_seconds(done: dict[str, CachedResult]) -> float:
    """Return the CPU seconds of all trials, cached ones too; other load adds none."""
    return sum(float(cell.result["cpu_seconds"]) for cell in done.values())
