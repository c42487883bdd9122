"""After the last step: measure the best model on val and test, write card and report."""

from pathlib import Path
from typing import Any

import torch

from vitral.data import Audit, DataSet
from vitral.evaluation import Classification, MultiLabel
from vitral.files import write_atomic
from vitral.run.folder import Run
from vitral.run.scoring import measure, score, split_loader, write_result
from vitral.run.setup import bad_of
from vitral.run.showing import write_report
from vitral.report import model_card
from vitral.training import MetricsLog


def finish(out: Path, found: Audit, device: torch.device) -> Run:
    """Evaluate the best model on every held-out split and write what people read."""
    run = Run(out)
    log = MetricsLog(out / "metrics.jsonl")
    for split in ("val", "test"):
        if not found.dataset.select(split):
            continue
        result = evaluate_split(run, found.dataset, split, found, device)
        log.append(
            {
                "event": "final",
                "split": split,
                "step": run.extra.get("step", 0),
                **result.scalars(),
            }
        )
    log.close()
    write_atomic(out / "model" / "README.md", model_card(out))
    write_report(out, found.dataset)
    return run


def evaluate_split(
    run: Run, dataset: DataSet, split: str, found: Audit, device: torch.device
) -> Classification | MultiLabel:
    """Measure `run` on a split and write predictions/<split>.json and .csv."""
    run.model.to(device)
    loader = split_loader(dataset, split, run.preprocess, batch_size=32)
    scores = score(
        run.model,
        loader.epoch(0),
        device=device,
        views=run.extra.get("eval_views", "one"),
        bf16=run.extra.get("precision") == "bf16",
        multi_label=run.multi_label,
    )
    bad = bad_of(found.bad, split)
    result: Any = measure(scores, run.classes, bad, multi_label=run.multi_label)
    write_result(run.path / "predictions", split, scores, result, bad)
    return result
