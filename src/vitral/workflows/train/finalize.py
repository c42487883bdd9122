"""Finalize a run: evaluate the best model, draw its maps, write card and report."""

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from vitral.atomic_io import write_atomic, write_json
from vitral.data import Audit
from vitral.evaluation import Classification, MultiLabel, Probe
from vitral.report import model_card
from vitral.training import MetricsLog
from vitral.training.distributed import SilentLog, get_rank
from vitral.weights import update_metadata
from vitral.workflows.dataset import bad_files_in
from vitral.workflows.evaluate import evaluate_split
from vitral.workflows.inspect import compute_report_maps, write_report
from vitral.workflows.run import Run
from vitral.workflows.session import Session
from vitral.workflows.train.knn_monitor import Monitor
from vitral.workflows.train.plan import TrainPlan
from vitral.workflows.train.reconstructions import FIGURE_FILE, draw_reconstructions

RESULT_FILE = "representation.json"


def finalize(
    plan: TrainPlan, session: Session, objective: nn.Module, monitor: Monitor
) -> None:
    """Evaluate the best model on every held-out split and write card and report.

    Several ranks evaluate together; rank 0 writes, and removes cached outputs.

    Args:
        objective: as the last step left it; its own parts are not saved with the model.
    """
    if plan.config.objective.LABELS:
        _finalize_labeled(plan, session)
    elif get_rank() == 0:
        _finalize_unlabeled(session.out, plan.audit, objective, monitor)
    if get_rank() == 0:
        shutil.rmtree(session.out / "cache", ignore_errors=True)


def _finalize_labeled(plan: TrainPlan, session: Session) -> None:
    out, audit, device = session.out, plan.audit, session.device
    run = Run(out)
    first = get_rank() == 0
    log = MetricsLog(out / "metrics.jsonl") if first else SilentLog()
    for split in ("val", "test"):
        if not audit.dataset.select(split):
            continue
        bad = bad_files_in(audit.bad, split)
        folder = out / "predictions"
        result = evaluate_split(
            run, audit.dataset, split, bad, device, folder, name=split
        )
        if first and split == "val":
            _store_temperature(run, result)
        log.append(
            {
                "event": "final",
                "split": split,
                "step": run.extra.get("step", 0),
                **result.scalars(),
            }
        )
    log.close()
    if not first:
        return
    write_atomic(out / "model" / "README.md", model_card(out))
    compute_report_maps(run, audit.dataset, device)
    write_report(out, audit.dataset)


def _store_temperature(run: Run, result: Classification | MultiLabel) -> None:
    """Store the temperature in the model folder too, which is used without the run."""
    if isinstance(result, Classification) and result.calibrated is not None:
        temperature = result.calibrated.temperature
        update_metadata(run.path / "model", temperature=temperature)
        run.extra["temperature"] = temperature


def _finalize_unlabeled(
    out: Path, audit: Audit, objective: nn.Module, monitor: Monitor
) -> None:
    run = Run(out)
    model = run.model.to(monitor.device)
    log = MetricsLog(out / "metrics.jsonl")
    splits: dict[str, Any] = {}
    for split in ("val", "test"):
        if not audit.dataset.select(split):
            continue
        result = monitor.evaluate(objective, model, split)
        splits[split] = {
            "n": result.n,
            "loss": result.loss,
            "knn": None if result.knn is None else _summarize_probe(result.knn),
        }
        numbers = {"loss": result.loss}
        if result.knn is not None:
            numbers["knn_accuracy"] = result.knn.accuracy
        step = run.extra.get("step", 0)
        log.append({"event": "final", "split": split, "step": step, **numbers})
    log.close()
    write_json(
        out / RESULT_FILE, {"objective": run.config.objective.NAME, "splits": splits}
    )
    draw_reconstructions(out / FIGURE_FILE, audit, objective, run.preprocess)
    write_atomic(out / "model" / "README.md", model_card(out))
    write_report(out, audit.dataset)


def _summarize_probe(probe: Probe) -> dict[str, Any]:
    """Return the numbers of a probe, without its prediction for each image."""
    stored = probe.to_dict()
    del stored["predicted"]
    return stored
