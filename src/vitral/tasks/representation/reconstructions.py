"""Figure of hidden patches and their reconstructions by the objective of a run."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitral.atomic_io import write_atomic
from vitral.data import Dataset, Preprocess
from vitral.data.split import held_out
from vitral.errors import ImageError
from vitral.tasks.representation.draws import uniform
from vitral.tasks.representation.mae import MAE
from vitral.tasks.representation.masked_patch import MaskedPatch, draw_corruption
from vitral.tasks.representation.patches import Reconstruction

MAX_IMAGES = 8
OBJECTIVE_LABELS = {
    "mae": "a masked autoencoder",
    "masked_patch": "masked patch prediction",
}
FIGURE_FILE = "reconstructions.png"


def draw_reconstructions(
    folder: Path, dataset: Dataset, objective: nn.Module, preprocess: Preprocess
) -> None:
    """Draw held-out images, the same images masked, and their reconstructions."""
    from vitral import plots  # slow to import, and a run without labels alone needs it

    split = held_out(dataset.counts()) or "train"
    examples = dataset.select(split)
    ids, images = [], []
    for example in examples[:: max(1, len(examples) // MAX_IMAGES)][:MAX_IMAGES]:
        try:
            images.append(preprocess(dataset.read(example)))
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
    write_atomic(folder / FIGURE_FILE, plots.to_png(plot.figure))


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
