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
from vitral.objectives.masked_patch import draw
from vitral.objectives.patches import Reconstruction
from vitral.report import model_card
from vitral.training import MetricsLog
from vitral.training.distributed import SilentLog, rank
from vitral.weights import keep
from vitral.workflows.dataset import bad_of
from vitral.workflows.evaluate import measure_split
from vitral.workflows.inputs import as_seen
from vitral.workflows.inspect import look, write_report
from vitral.workflows.run import Run
from vitral.workflows.train.knn_monitor import Monitor


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


MOST_DRAWN = 8
WORDS = {"mae": "a masked autoencoder", "masked_patch": "masked patch prediction"}
FILE = "representation.json"
PICTURE = "reconstructions.png"


def finish_without_labels(
    out: Path, found: Audit, objective: nn.Module, monitor: Monitor
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
        if not found.dataset.select(split):
            continue
        judged = monitor.judge(objective, model, split)
        splits[split] = {
            "n": judged.n,
            "loss": judged.loss,
            "knn": None if judged.knn is None else _kept(judged.knn),
        }
        numbers = {"loss": judged.loss}
        if judged.knn is not None:
            numbers["knn_accuracy"] = judged.knn.accuracy
        step = run.extra.get("step", 0)
        log.append({"event": "final", "split": split, "step": step, **numbers})
    log.close()
    write_json(out / FILE, {"objective": run.config.objective.NAME, "splits": splits})
    draw_reconstructions(out / PICTURE, found, objective, run.preprocess)
    write_atomic(out / "model" / "README.md", model_card(out))
    write_report(out, found.dataset)
    return run


def _kept(probe: Probe) -> dict[str, Any]:
    """The numbers of a probe, without its answer for each image."""
    stored = probe.to_dict()
    del stored["predicted"]
    return stored


def draw_reconstructions(
    file: Path, found: Audit, objective: nn.Module, preprocess: Preprocess
) -> None:
    """A figure of images that were not trained on, masked, and as they are drawn."""
    dataset = found.dataset
    split = next(name for name in ("test", "val", "train") if dataset.select(name))
    examples = dataset.select(split)
    chosen = examples[:: max(1, len(examples) // MOST_DRAWN)][:MOST_DRAWN]
    ids, images = [], []
    for example in chosen:
        try:
            images.append(as_seen(preprocess, dataset, example))
        except ImageError:
            continue
        ids.append(example.id)
    if not ids or not isinstance(objective, MAE | MaskedPatch):
        return
    device = next(objective.parameters()).device
    pixels = torch.stack(images).to(device)
    objective.eval()
    drawn = reconstructed(objective, pixels, tuple(ids))
    drawer = WORDS[objective.config.NAME]
    plot = plots.reconstructions(
        _shown(preprocess, pixels),
        list(drawn.hidden.cpu().numpy()),
        _shown(preprocess, drawn.image),
        title=f"Hidden patches of {split} images, drawn by {drawer}",
        note=note_of(objective),
    )
    write_atomic(file, plots.to_png(plot.figure))


def reconstructed(
    objective: MAE | MaskedPatch, pixels: Tensor, ids: tuple[str, ...]
) -> Reconstruction:
    """The images with patches hidden as in evaluation, and drawn."""
    config = objective.model.config
    height, width = config.patch_hw
    patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    if isinstance(objective, MAE):
        noise = uniform(ids, patches, "mae", 0)
        return objective.reconstruct(pixels, noise.to(pixels.device))
    corruption = draw(objective.config, ids, patches, 0)
    moved = (part.to(pixels.device) for part in corruption)
    return objective.reconstruct(pixels, type(corruption)(*moved))


def note_of(objective: MAE | MaskedPatch) -> str:
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


def _shown(preprocess: Preprocess, pixels: Tensor) -> list[np.ndarray]:
    images = preprocess.inverse(pixels.cpu())
    return [image.permute(1, 2, 0).numpy() for image in images]
