"""After the last step: measure the best model, look into it, write card and report."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.data import Audit, Preprocess
from vitral.errors import ImageError
from vitral.evaluation import Classification, MultiLabel, Probe
from vitral.objectives import MAE, MaskedPatch
from vitral.objectives.draws import uniform
from vitral.objectives.masked_patch import draw_corruption
from vitral.objectives.patches import Reconstruction
from vitral.report import model_card
from vitral.training import MetricsLog
from vitral.training.distributed import SilentLog, get_rank
from vitral.weights import update_metadata
from vitral.workflows.dataset import bad_files_in
from vitral.workflows.evaluate import evaluate_split
from vitral.workflows.inputs import load_example
from vitral.workflows.inspect import compute_report_maps, write_report
from vitral.workflows.run import Run
from vitral.workflows.train.knn_monitor import Monitor


def finalize(out: Path, audit: Audit, device: torch.device) -> Run:
    """Evaluate the best model on every held-out split and write what people read.

    Several ranks evaluate together; rank 0 writes.
    """
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
        return run
    write_atomic(out / "model" / "README.md", model_card(out))
    compute_report_maps(run, audit.dataset, device)
    write_report(out, audit.dataset)
    return run


def _store_temperature(run: Run, result: Classification | MultiLabel) -> None:
    """Let the temperature travel with the model: predictions/ stays in the run."""
    if isinstance(result, Classification) and result.calibrated is not None:
        found = result.calibrated.temperature
        update_metadata(run.path / "model", temperature=found)
        run.extra["temperature"] = found


MAX_IMAGES = 8
OBJECTIVE_LABELS = {
    "mae": "a masked autoencoder",
    "masked_patch": "masked patch prediction",
}
RESULT_FILE = "representation.json"
FIGURE_FILE = "reconstructions.png"


def finalize_unlabeled(
    out: Path, audit: Audit, objective: nn.Module, monitor: Monitor
) -> Run:
    """Judge the best model on every held-out split and write what people read.

    Args:
        objective: as the last step left it; its own parts are not kept with the model.
    """
    run = Run(out)
    model = run.model.to(monitor.device)
    log = MetricsLog(out / "metrics.jsonl")
    splits: dict[str, Any] = {}
    for split in ("val", "test"):
        if not audit.dataset.select(split):
            continue
        judged = monitor.evaluate(objective, model, split)
        splits[split] = {
            "n": judged.n,
            "loss": judged.loss,
            "knn": None if judged.knn is None else _summarize_probe(judged.knn),
        }
        numbers = {"loss": judged.loss}
        if judged.knn is not None:
            numbers["knn_accuracy"] = judged.knn.accuracy
        step = run.extra.get("step", 0)
        log.append({"event": "final", "split": split, "step": step, **numbers})
    log.close()
    write_json(
        out / RESULT_FILE, {"objective": run.config.objective.NAME, "splits": splits}
    )
    draw_reconstructions(out / FIGURE_FILE, audit, objective, run.preprocess)
    write_atomic(out / "model" / "README.md", model_card(out))
    write_report(out, audit.dataset)
    return run


def _summarize_probe(probe: Probe) -> dict[str, Any]:
    """The numbers of a probe, without its answer for each image."""
    stored = probe.to_dict()
    del stored["predicted"]
    return stored


def draw_reconstructions(
    file: Path, audit: Audit, objective: nn.Module, preprocess: Preprocess
) -> None:
    """A figure of images that were not trained on, masked, and as they are drawn."""
    dataset = audit.dataset
    split = next(name for name in ("test", "val", "train") if dataset.select(name))
    examples = dataset.select(split)
    chosen = examples[:: max(1, len(examples) // MAX_IMAGES)][:MAX_IMAGES]
    ids, images = [], []
    for example in chosen:
        try:
            images.append(load_example(preprocess, dataset, example))
        except ImageError:
            continue
        ids.append(example.id)
    if not ids or not isinstance(objective, MAE | MaskedPatch):
        return
    device = next(objective.parameters()).device
    pixels = torch.stack(images).to(device)
    objective.eval()
    drawn = reconstruct_images(objective, pixels, tuple(ids))
    drawer = OBJECTIVE_LABELS[objective.config.NAME]
    plot = plots.reconstructions(
        _to_images(preprocess, pixels),
        list(drawn.hidden.cpu().numpy()),
        _to_images(preprocess, drawn.image),
        title=f"Hidden patches of {split} images, drawn by {drawer}",
        note=reconstruction_note(objective),
    )
    write_atomic(file, plots.to_png(plot.figure))


def reconstruct_images(
    objective: MAE | MaskedPatch, pixels: Tensor, ids: tuple[str, ...]
) -> Reconstruction:
    """The images with patches hidden as in evaluation, and drawn."""
    config = objective.model.config
    height, width = config.patch_hw
    patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    if isinstance(objective, MAE):
        noise = uniform(ids, patches, "mae", 0)
        return objective.reconstruct(pixels, noise.to(pixels.device))
    corruption = draw_corruption(objective.config, ids, patches, 0)
    moved = (part.to(pixels.device) for part in corruption)
    return objective.reconstruct(pixels, type(corruption)(*moved))


def reconstruction_note(objective: MAE | MaskedPatch) -> str:
    """What a reader must know of the drawn patches."""
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
