"""After the last step: measure the best model, look into it, write card and report."""

from pathlib import Path

import torch

from vitral.atomic_io import write_atomic
from vitral.data import Audit
from vitral.evaluation import Classification, MultiLabel
from vitral.report import model_card
from vitral.run.evaluating import measure_split
from vitral.run.folder import Run
from vitral.run.looking import look
from vitral.run.setup import bad_of
from vitral.run.showing import write_report
from vitral.training import MetricsLog
from vitral.training.distributed import SilentLog, rank
from vitral.weights import keep


def finish(out: Path, found: Audit, device: torch.device) -> Run:
    """Evaluate the best model on every held-out split and write what people read.

    Several ranks evaluate together; rank 0 writes.
    """
    run = Run(out)
    first = rank() == 0
    log = MetricsLog(out / "metrics.jsonl") if first else SilentLog()
    for split in ("val", "test"):
        if not found.dataset.select(split):
            continue
        bad = bad_of(found.bad, split)
        folder = out / "predictions"
        result = measure_split(
            run, found.dataset, split, bad, device, folder, name=split
        )
        if first and split == "val":
            _keep_temperature(run, result)
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
        return run
    write_atomic(out / "model" / "README.md", model_card(out))
    look(run, found.dataset, device)
    write_report(out, found.dataset)
    return run


def _keep_temperature(run: Run, result: Classification | MultiLabel) -> None:
    """Let the temperature travel with the model: predictions/ stays in the run."""
    if isinstance(result, Classification) and result.calibrated is not None:
        found = result.calibrated.temperature
        keep(run.path / "model", temperature=found)
        run.extra["temperature"] = found
