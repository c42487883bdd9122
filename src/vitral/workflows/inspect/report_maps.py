"""Attention maps and attention distances of a run's report, stored in inspection/.

They are computed after the results and must not fail the run: an error is stored as the
reason why they are missing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitral.data import Dataset
from vitral.data.example import Example
from vitral.document import RunFolder
from vitral.document.inspection_store import store
from vitral.errors import ImageError, VitralError
from vitral.inspection import (
    attention_distance,
    distance_obstacle,
    grad_cam,
    has_attention,
    rollout,
    uniform_distance,
)
from vitral.layers import Grid
from vitral.models import VisionModel
from vitral.report.load_run import load_run_folder, task_of
from vitral.tasks import Result
from vitral.workflows.run import Run

MAX_DISTANCE_IMAGES = 128
"""Images for the attention distance, as in arXiv 2010.11929, figure 7."""
MAX_ATTENTION_ELEMENTS = 2**22
"""Attention elements of one head and a batch: 16 MB; a layer has some tens of heads."""


def is_current(run: Path) -> bool:
    """Return whether inspection/ covers the predictions that the report shows now."""
    folder = load_run_folder(run)
    if folder.headline_split is None:
        return True
    ids = set(_explained_outputs(folder))
    stored = folder.inspection
    return stored is not None and stored.covers(folder.headline_split, ids)


def _explained_outputs(run: RunFolder[Result]) -> dict[str, int]:
    """Return the output that each map explains, by the id of its example."""
    examples = task_of(run).reporter().select_examples(run)
    return {example.id: example.output for example in examples}


def compute_report_maps(run: Run, dataset: Dataset, device: torch.device) -> None:
    """Write inspection/ of a run that was measured; do nothing for any other.

    Args:
        dataset: the run's data with the run's split.

    Raises:
        ConfigError: the folder is not a run, or a file in it is damaged.
    """
    folder = load_run_folder(run.path)
    split = folder.headline_split
    if split is None:
        return
    try:
        document, maps = _compute_maps(run, folder, dataset, device, split=split)
    except (VitralError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())
        document, maps = {"split": split, "missing": reason}, np.zeros((0, 0, 0))
    store(run.path, document, maps)


def _compute_maps(
    run: Run,
    run_folder: RunFolder[Result],
    dataset: Dataset,
    device: torch.device,
    *,
    split: str,
) -> tuple[dict[str, Any], np.ndarray]:
    model = run.model.to(device).eval()
    method = "rollout" if has_attention(model) else "grad_cam"
    by_id = {example.id: example for example in dataset.examples}
    outputs = _explained_outputs(run_folder)
    examples = [by_id[name] for name in outputs if name in by_id]
    ids: list[str] = []
    maps: list[Tensor] = []
    for names, pixels in _iter_batches(run, dataset, examples):
        maps.append(
            _compute_batch_maps(run, [outputs[n] for n in names], pixels, method)
        )
        ids += names
    document: dict[str, Any] = {
        "split": split,
        "method": method,
        "image_size": list(run.preprocess.image_size),
        "ids": ids,
        "unreadable": [name for name in outputs if name not in ids],
        "distance": None,
        "notes": [],
    }
    obstacle = distance_obstacle(model)
    if obstacle:
        document["notes"].append(obstacle)
    else:
        document["distance"] = _compute_distance(run, run_folder, dataset, split)
    if not document["notes"] and document["distance"] is None:
        document["notes"].append(
            f"No image of {split} could be read, so there is no attention distance."
        )
    return document, torch.cat(maps).numpy() if maps else np.zeros((0, 0, 0))


def _iter_batches(
    run: Run, dataset: Dataset, examples: Sequence[Example]
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield ids and pixels of readable images, as evaluated; clips in one view."""
    size = min(16, max(1, MAX_ATTENTION_ELEMENTS // run.model.config.num_patches**2))
    for start in range(0, len(examples), size):
        ids, pixels = [], []
        for example in examples[start : start + size]:
            try:
                pixels.append(run.preprocess.first_view(dataset.open(example)).pixels)
            except (ImageError, OSError):
                continue
            ids.append(example.id)
        if ids:
            device = next(run.model.parameters()).device
            yield ids, torch.stack(pixels).to(device)


def _compute_batch_maps(
    run: Run, outputs: Sequence[int], pixels: Tensor, method: str
) -> Tensor:
    if method == "rollout":
        return rollout(run.model, pixels)
    return grad_cam(run.model, pixels, torch.tensor(outputs, device=pixels.device))


def _compute_distance(
    run: Run, run_folder: RunFolder[Result], dataset: Dataset, split: str
) -> dict[str, Any] | None:
    """Return each head's mean distance in pixels, over images of all classes."""
    bad = {row.get("path") for row in (run_folder.data or {}).get("bad") or []}
    examples = [e for e in dataset.select(split) if e.id not in bad]
    count = min(MAX_DISTANCE_IMAGES, len(examples))
    sample = [examples[i * len(examples) // count] for i in range(count)]
    total, images, uniform = torch.zeros(1, 1, dtype=torch.float64), 0, 0.0
    for names, pixels in _iter_batches(run, dataset, sample):
        uniform = uniform or _uniform_distance(run.model, pixels)
        size = len(names)
        mean = attention_distance(run.model, pixels, batch_size=size)
        total, images = total + mean.double() * size, images + size
    if not images:
        return None
    layers = [[round(head, 4) for head in layer] for layer in (total / images).tolist()]
    heads = [head for layer in layers for head in layer]
    near = sum(head < uniform / 2 for head in heads)
    return {
        "images": images,
        "uniform": round(uniform, 4),
        "layers": layers,
        "layer_means": [round(sum(layer) / len(layer), 4) for layer in layers],
        "heads": len(heads),
        "heads_near": near,
        "share_near": round(near / len(heads), 6),
    }


@torch.no_grad()
def _uniform_distance(model: VisionModel, pixels: Tensor) -> float:
    """Return the distance of an attention that is equal for all tokens of an image."""
    tokens = model.embed(pixels[:1])
    grid = Grid(tokens.rows, tokens.columns)
    patch = (pixels.shape[-2] / grid.rows, pixels.shape[-1] / grid.columns)
    prefix = model.config.num_prefix_tokens
    return uniform_distance(grid, patch, num_prefix_tokens=prefix)
