"""Finalize a run: evaluate the best model, draw its maps, write card and report."""

import shutil
from typing import Any

import torch
from torch import nn

from vitral.atomic_io import write_atomic
from vitral.data import Audit
from vitral.report import model_card
from vitral.tasks import Monitor
from vitral.training import MetricsLog
from vitral.training.distributed import SilentLog, get_rank
from vitral.weights import update_metadata
from vitral.workflows.dataset import bad_files_in
from vitral.workflows.evaluate import evaluate_split
from vitral.workflows.inspect import compute_report_maps, write_report
from vitral.workflows.run import Run
from vitral.workflows.session import Session
from vitral.workflows.train.plan import TrainPlan


def finalize(
    plan: TrainPlan, session: Session, objective: nn.Module, monitor: Monitor | None
) -> None:
    """Evaluate the best model on every held-out split and write card and report.

    Several ranks evaluate answers together; rank 0 writes, and removes cached outputs.

    Args:
        objective: as the last step left it; its own parts are not saved with the model.
        monitor: measurement of a model without answers.
    """
    out, dataset, device = session.out, plan.audit.dataset, session.device
    first = get_rank() == 0
    if monitor is not None and not first:
        return
    run = Run(out)
    log = MetricsLog(out / "metrics.jsonl") if first else SilentLog()
    if monitor is None:
        numbers = {
            split: _evaluate_answers(run, plan.audit, split, device)
            for split in filter(dataset.select, ("val", "test"))
        }
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
    write_atomic(out / "model" / "README.md", model_card(out))
    if monitor is None:
        compute_report_maps(run, dataset, device)
    write_report(out, dataset)
    shutil.rmtree(out / "cache", ignore_errors=True)


def _evaluate_answers(
    run: Run, audit: Audit, split: str, device: torch.device
) -> dict[str, Any]:
    """Evaluate a split; store what is fitted on val in the model folder too."""
    bad, folder = bad_files_in(audit.bad, split), run.path / "predictions"
    result = evaluate_split(
        run, audit.dataset, split, bad=bad, device=device, folder=folder
    )
    if get_rank() == 0 and split == "val":
        fitted = result.calibration()
        if fitted:
            update_metadata(run.path / "model", **fitted)
            run.extra.update(fitted)
    return result.scalars()
