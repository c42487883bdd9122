"""Finalize a run: evaluate the best model, draw its maps, write card and report."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.data import Audit, Preprocess
from vitral.data.split import held_out
from vitral.errors import ImageError
from vitral.report import model_card
from vitral.tasks.classification import Classification, MultiLabel
from vitral.tasks.representation import MAE, MaskedPatch
from vitral.tasks.representation.draws import uniform
from vitral.tasks.representation.masked_patch import draw_corruption
from vitral.tasks.representation.patches import Reconstruction
from vitral.training import MetricsLog
from vitral.training.distributed import SilentLog, get_rank
from vitral.weights import update_metadata
from vitral.workflows.dataset import bad_files_in
from vitral.workflows.evaluate import evaluate_split
from vitral.workflows.inspect import compute_report_maps, write_report
from vitral.workflows.run import Run
from vitral.workflows.session import Session
from vitral.workflows.train.knn_monitor import Monitor, MonitorResult
from vitral.workflows.train.plan import TrainPlan

RESULT_FILE = "representation.json"
MAX_IMAGES = 8
OBJECTIVE_LABELS = {
    "mae": "a masked autoencoder",
    "masked_patch": "masked patch prediction",
}
FIGURE_FILE = "reconstructions.png"


def finalize(
    plan: TrainPlan, session: Session, objective: nn.Module, monitor: Monitor
) -> None:
    """Evaluate the best model on every held-out split and write card and report.

    Several ranks evaluate labels together; rank 0 writes, and removes cached outputs.

    Args:
        objective: as the last step left it; its own parts are not saved with the model.
    """
    out, dataset, device = session.out, plan.audit.dataset, session.device
    first = get_rank() == 0
    if not (plan.classes or first):
        return
    run = Run(out)
    log = MetricsLog(out / "metrics.jsonl") if first else SilentLog()
    summaries: dict[str, Any] = {}
    for split in filter(dataset.select, ("val", "test")):
        if plan.classes:
            numbers = _evaluate_labeled(run, plan.audit, split, device)
        else:
            result = monitor.evaluate(objective, run.model.to(device), split)
            numbers, summaries[split] = _summarize(result)
        step = run.extra.get("step", 0)
        log.append({"event": "final", "split": split, "step": step, **numbers})
    log.close()
    if not first:
        return
    if not plan.classes:
        name = plan.config.objective.NAME
        write_json(out / RESULT_FILE, {"objective": name, "splits": summaries})
        _draw_reconstructions(out / FIGURE_FILE, plan.audit, objective, run.preprocess)
    write_atomic(out / "model" / "README.md", model_card(out))
    if plan.classes:
        compute_report_maps(run, dataset, device)
    write_report(out, dataset)
    shutil.rmtree(out / "cache", ignore_errors=True)


def _evaluate_labeled(
    run: Run, audit: Audit, split: str, device: torch.device
) -> dict[str, Any]:
    bad, folder = bad_files_in(audit.bad, split), run.path / "predictions"
    result = evaluate_split(
        run, audit.dataset, split, bad=bad, device=device, folder=folder
    )
    if get_rank() == 0 and split == "val":
        _store_temperature(run, result)
    return result.scalars()


def _store_temperature(run: Run, result: Classification | MultiLabel) -> None:
    """Store the temperature in the model folder too, which is used without the run."""
    if isinstance(result, Classification) and result.calibrated is not None:
        temperature = result.calibrated.temperature
        update_metadata(run.path / "model", temperature=temperature)
        run.extra["temperature"] = temperature


def _summarize(result: MonitorResult) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers of a split for the log, and its entry of `RESULT_FILE`."""
    numbers: dict[str, Any] = {"loss": result.loss}
    summary: dict[str, Any] = {"n": result.n, "loss": result.loss, "knn": None}
    if result.knn is not None:
        numbers["knn_accuracy"] = result.knn.accuracy
        summary["knn"] = result.knn.to_dict()
        del summary["knn"]["predicted"]
    return numbers, summary


def _draw_reconstructions(
    file: Path, audit: Audit, objective: nn.Module, preprocess: Preprocess
) -> None:
    """Draw held-out images, the same images masked, and their reconstructions."""
    dataset = audit.dataset
    split = held_out(dataset.counts()) or "train"
    examples = dataset.select(split)
    ids, images = [], []
    for example in examples[:: max(1, len(examples) // MAX_IMAGES)][:MAX_IMAGES]:
        try:
            images.append(preprocess.first_view(dataset.open(example)).pixels)
        except ImageError:
            continue
        ids.append(example.id)
    if not ids or not isinstance(objective, MAE | MaskedPatch):
        return
    device = next(objective.parameters()).device
    pixels = torch.stack(images).to(device)
    objective.eval()
    drawn = _reconstruct_images(objective, pixels, tuple(ids))
    drawer = OBJECTIVE_LABELS[objective.config.NAME]
    plot = plots.reconstructions(
        _to_images(preprocess, pixels),
        list(drawn.hidden.cpu().numpy()),
        _to_images(preprocess, drawn.image),
        title=f"Hidden patches of {split} images, drawn by {drawer}",
        note=_reconstruction_note(objective),
    )
    write_atomic(file, plots.to_png(plot.figure))


def _reconstruct_images(
    objective: MAE | MaskedPatch, pixels: Tensor, ids: tuple[str, ...]
) -> Reconstruction:
    """Reconstruct images with the patches masked as in evaluation."""
    config = objective.model.config
    height, width = config.patch_hw
    patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    if isinstance(objective, MAE):
        noise = uniform(ids, patches, "mae", 0)
        return objective.reconstruct(pixels, noise.to(pixels.device))
    corruption = draw_corruption(objective.config, ids, patches, 0)
    on_device = (part.to(pixels.device) for part in corruption)
    return objective.reconstruct(pixels, type(corruption)(*on_device))


def _reconstruction_note(objective: MAE | MaskedPatch) -> str:
    """Return the sentence that says what the pixels of a reconstructed patch are."""
    if isinstance(objective, MAE):
        if objective.config.norm_pix_loss:
            return (
                "Mean and contrast of each drawn patch are taken from the hidden "
                "patch itself: the model predicts normalised pixels."
            )
        return "Every pixel of a drawn patch is the model's."
    return {
        "mean_colour": "A drawn patch has the colour that the model finds most likely.",
        "small_patch": "Each of the 4 x 4 parts has its most likely colour.",
        "pixels": "Every pixel of a drawn patch is the model's.",
    }[objective.config.target]


def _to_images(preprocess: Preprocess, pixels: Tensor) -> list[np.ndarray]:
    images = preprocess.denormalize(pixels.cpu())
    return [image.permute(1, 2, 0).numpy() for image in images]
