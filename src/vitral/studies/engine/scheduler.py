"""Run the trials of a study, several at a time, each one a complete run folder.

A finished trial is kept and never repeated, an unfinished one goes on from its last
checkpoint. Each process has its share of the cores.
"""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from vitral import config_io
from vitral.studies.engine.base import STUDY_DIR, Student, Trial
from vitral.studies.engine.table import ResultTable, SeedResult
from vitral.workflows import Run, TrainConfig, open_run
from vitral.workflows.result_cache import CachedResult, ResultCache
from vitral.workflows.runtime import Runtime
from vitral.workflows.self_training import self_train
from vitral.workflows.train import train

logger = logging.getLogger(__name__)

Announce = Callable[[str], None]
_TRIAL_LOCK = threading.Lock()
"""Held while this process, one of the pool's, computes a trial."""


class TrialScheduler(NamedTuple):
    """Where trials are run, and how."""

    folder: Path
    """Gets `runs/` with a run folder for each trial, and `cells/` with the results."""
    jobs: int
    """Trials at a time."""
    device: str

    def run(self, trials: Sequence[Trial]) -> dict[str, CachedResult]:
        """The result of every trial by its key, in the order of `trials`.

        Raises:
            VitralError: what a training raised; the others' results are kept.
        """
        folders = self._run_folders(trials)
        waiting = list(trials)
        done: dict[str, CachedResult] = {}
        running: dict[Future[CachedResult], Trial] = {}
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        about = (threads, os.getpid())
        with ProcessPoolExecutor(self.jobs, context, _init_worker, about) as pool:
            try:
                while waiting or running:
                    ready = [
                        one
                        for one in waiting
                        if one.depends_on in done or not one.depends_on
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
        config = self._resolve_paths(trial, folders)
        student = trial.student
        if student is not None:
            student = replace(
                student,
                teacher=str(folders[student.teacher]),
                unlabelled=student.unlabelled.replace(STUDY_DIR, str(self.folder), 1),
                truth=student.truth.replace(STUDY_DIR, str(self.folder), 1),
            )
        out = folders[trial.key]
        about = (self.folder, trial.key, config, out, self.device, student)
        return pool.submit(_run_trial, *about)

    def _resolve_paths(self, trial: Trial, folders: dict[str, Path]) -> TrainConfig:
        """The trial's settings, with the paths that its study's folder decides."""
        config, here = trial.config, str(self.folder)
        weights = str(folders[trial.after]) if trial.after else config.weights
        return replace(
            config,
            data=config.data.replace(STUDY_DIR, here, 1),
            weights=weights.replace(STUDY_DIR, here, 1),
        )

    def _run_folders(self, trials: Sequence[Trial]) -> dict[str, Path]:
        """The run folder of each trial: other settings get another folder."""
        folders: dict[str, Path] = {}
        for trial in trials:
            plain = json.dumps(config_io.to_dict(trial.config), sort_keys=True)
            before = folders[trial.depends_on].name if trial.depends_on else ""
            if trial.student is not None:
                plain += json.dumps(asdict(trial.student.settings), sort_keys=True)
            mark = hashlib.sha256(f"{plain} {before}".encode()).hexdigest()[:8]
            name = "".join(c if c.isalnum() else "-" for c in trial.key)
            folders[trial.key] = self.folder / "runs" / f"{name}-{mark}"
        return folders

    def _log_progress(
        self, trial: Trial, cell: CachedResult, number: int, total: int
    ) -> None:
        kept = "" if cell.fresh else ", kept from before"
        logger.info(
            f"[{number}/{total}] {trial.key}: {100 * cell.result['test']:.1f} % "
            f"({cell.seconds:.0f} s{kept})"
        )


def build_table(trials: Sequence[Trial], done: dict[str, CachedResult]) -> ResultTable:
    """The table of a study; of competing trials the best on val counts."""
    chosen: dict[tuple[str, str], dict[int, list[Trial]]] = {}
    for trial in trials:
        if trial.counts:
            chosen.setdefault(trial.cell, {}).setdefault(trial.seed, []).append(trial)
    table: dict[tuple[str, str], list[SeedResult]] = {}
    for place, seeds in chosen.items():
        for seed, group in seeds.items():
            best = max(group, key=lambda trial: done[trial.key].result["val"])
            result = done[best.key].result
            measured = SeedResult(
                seed=seed,
                accuracy=result["test"],
                val=result["val"],
                choice=best.choice,
                macs=result["macs"],
                parameters=result["parameters"],
                seconds=sum(done[trial.key].seconds for trial in group),
            )
            table.setdefault(place, []).append(measured)
    return ResultTable(table)


def _init_worker(threads: int, parent: int) -> None:
    """In a new process: its share of the cores, and no life after its parent's."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """When the parent has gone: ask the trial to stop, as a user would, then leave.

    The pool's own worker would wait for work for ever, since its siblings hold the
    other end of its pipe.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    with _TRIAL_LOCK:
        os._exit(128 + signal.SIGTERM)


def _run_trial(
    folder: Path,
    key: str,
    config: TrainConfig,
    out: Path,
    device: str,
    student: Student | None,
) -> CachedResult:
    """Train in `out`, or take the kept result; runs in a process of its own."""
    about = {"config": config_io.to_dict(config), "run": out.name}
    before = time.process_time()

    def result() -> dict[str, Any]:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            (out.parent / f"{out.name}.log").open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            if student is None:
                train(
                    config,
                    out,
                    resume=out.exists(),
                    runtime=Runtime(device=device),
                )
            else:
                _run_self_training(student, config, out, device)
        return {
            **_read_result(out),
            "cpu_seconds": round(time.process_time() - before, 2),
        }

    name = "".join(c if c.isalnum() or c in " ,.-" else "_" for c in key)
    with _TRIAL_LOCK:
        return ResultCache(folder / "cells").get_or_compute(name, about, result)


def _run_self_training(
    student: Student, config: TrainConfig, out: Path, device: str
) -> None:
    """One round of self-training in a folder of its own; its run is copied to `out`."""
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
    """The numbers of a finished run."""
    run = open_run(out)
    measured = run.metrics
    if not run.classes:
        return _read_unlabeled_result(out, run)
    held_out = measured.get("test") or measured["val"]
    return {
        "val": measured["val"]["top1"] if "val" in measured else 0.0,
        "test": held_out["top1"],
        "n": held_out["n"],
        "macs": run.model.config.macs(),
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }


def _read_unlabeled_result(out: Path, run: Run) -> dict[str, Any]:
    """A stage that prepares others: what neighbours in its features know."""
    splits = json.loads((out / "representation.json").read_text())["splits"]
    found = splits.get("test") or splits.get("val") or {"n": 0, "knn": None}
    return {
        "val": 0.0,
        "test": found["knn"]["accuracy"] if found["knn"] else 0.0,
        "n": found["n"],
        "macs": run.model.config.macs(),
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }


def total_cpu_seconds(done: dict[str, CachedResult]) -> float:
    """Of all trials together, whenever they ran: what other work cannot inflate."""
    return sum(float(cell.result["cpu_seconds"]) for cell in done.values())
