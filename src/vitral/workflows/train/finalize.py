"""Finalize a run: evaluate the best model, draw its maps, write card and report."""

import shutil
from typing import Any

import torch
from torch import nn

from vitral.data import Audit, BadFile
from vitral.data.audit import require_few_unread
from vitral.progress import PROGRESS_FILE
from vitral.training import MetricsLog
from vitral.training.distributed import SilentLog, get_rank
from vitral.weights import update_metadata
from vitral.workflows.dataset import bad_files_in
from vitral.workflows.evaluate import evaluate_split
from vitral.workflows.inspect import compute_report_maps, write_report
from vitral.workflows.run import Run
from vitral.workflows.session import Session
from vitral.workflows.train.build import RunParts
from vitral.workflows.train.plan import TrainPlan
from vitral.workflows.train.progress import write_card
from vitral.workflows.unread import find_failures, record_unread


def finalize(
    plan: TrainPlan, session: Session, objective: nn.Module, parts: RunParts
) -> None:
    """Evaluate the best model on every held-out split and write card and report.

    Several ranks evaluate answers together; rank 0 writes, and removes cached outputs.

    Args:
        objective: as the last step left it; its own parts are not saved with the model.

    Raises:
        DataError: too many images of a split could not be read any more.
    """
    out, dataset, device = session.out, plan.audit.dataset, session.device
    first, monitor = get_rank() == 0, parts.monitor
    if monitor is not None and not first:
        return
    run = Run(out)
    if first:
        record_unread(out, find_failures(parts.train.examples, parts.train.failures))
    log = MetricsLog(out / "metrics.jsonl") if first else SilentLog()
    numbers: dict[str, dict[str, Any]] = {}
    unread: dict[str, tuple[BadFile, ...]] = {}
    if monitor is None:
        for split in filter(dataset.select, ("val", "test")):
            numbers[split], unread[split] = _evaluate_answers(
                run, plan.audit, split, device
            )
    else:
        model = run.model.to(device)
        name = plan.config.objective.NAME
        numbers = monitor.finalize(objective, model, out, name)
    for split, values in numbers.items():
        step = run.extra.get("step", 0)
        log.append({"event": "final", "split": split, "step": step, **values})
    log.close()
    if not first:
        return
    (out / PROGRESS_FILE).unlink(missing_ok=True)
    write_card(out)
    if monitor is None:
        compute_report_maps(run, dataset, device)
    write_report(out, dataset)
    shutil.rmtree(out / "cache", ignore_errors=True)
    for split, files in unread.items():
        failures = [(file.path, file.reason) for file in files]
        count = len(dataset.select(split))
        require_few_unread(failures, count, plan.config.max_bad)


def _evaluate_answers(
    run: Run, audit: Audit, split: str, device: torch.device
) -> tuple[dict[str, Any], tuple[BadFile, ...]]:
    """Evaluate a split; store what is fitted on val in the model folder too.

    Returns:
        the metrics, and the images that became unreadable since the audit.
    """
    known, folder = bad_files_in(audit.bad, split), run.path / "predictions"
    result, bad = evaluate_split(
        run, audit.dataset, split, bad=known, device=device, folder=folder
    )
    unread = bad[len(known) :]
    if get_rank() == 0:
        record_unread(run.path, unread)
    if get_rank() == 0 and split == "val":
        fitted = result.calibration()
        if fitted:
            update_metadata(run.path / "model", **fitted)
            run.extra.update(fitted)
    return result.scalars(), unread
