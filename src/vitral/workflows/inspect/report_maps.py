"""What the best model looks at, computed for the report and kept in inspection/.

A map of each answer that the report shows, and how far the heads of each layer look.
It comes after the results and may not spoil them: what cannot be computed leaves its
reason in the folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitral.data import Dataset
from vitral.data.dataset import Example
from vitral.errors import ImageError, VitralError
from vitral.evaluation import Prediction
from vitral.inspection import attention_distance, grad_cam, rollout, uniform_distance
from vitral.layers import Attention, Grid
from vitral.models import VisionModel
from vitral.report.inspection_store import store
from vitral.report.load_run import RunFolder, load_run_folder
from vitral.report.sections import select_examples
from vitral.workflows.inputs import load_example
from vitral.workflows.run import Run

MAX_DISTANCE_IMAGES = 128
"""Of the distance, as in the paper (arXiv 2010.11929, figure 7)."""
MAX_ATTENTION_ELEMENTS = 2**22
"""Of one head and a batch: 16 MB; a layer has some tens of heads at most."""


def is_current(run: Path) -> bool:
    """Whether inspection/ speaks of the answers that the run's report shows now.

    Raises:
        ConfigError: the folder is not a run, or a file in it is damaged.
    """
    found = load_run_folder(run)
    if found.headline_split is None:
        return True
    ids = {row.path for row in select_examples(found)}
    return found.inspection is not None and found.inspection.covers(
        found.headline_split, ids
    )


def compute_report_maps(run: Run, dataset: Dataset, device: torch.device) -> None:
    """Write inspection/ of a run that was measured; nothing where none was.

    Args:
        dataset: the run's data with the run's split.

    Raises:
        ConfigError: the folder is not a run, or a file in it is damaged.
    """
    found = load_run_folder(run.path)
    if found.headline_split is None:
        return
    try:
        seen = _compute_maps(run, found, found.headline_split, dataset, device)
    except (VitralError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())
        seen = _MapSet(
            {"split": found.headline_split, "missing": reason}, np.zeros((0, 0, 0))
        )
    store(run.path, seen.document, seen.maps)


class _MapSet(NamedTuple):
    document: dict[str, Any]
    maps: np.ndarray


class _ImageBatch(NamedTuple):
    """A batch of images, and which they are."""

    ids: list[str]
    pixels: Tensor


def _compute_maps(
    run: Run, run_folder: RunFolder, split: str, dataset: Dataset, device: torch.device
) -> _MapSet:
    model = run.model.to(device).eval()
    method = "rollout" if _has_attention(model) else "grad_cam"
    by_id = {example.id: example for example in dataset.examples}
    rows = {row.path: row for row in select_examples(run_folder)}
    wanted = [by_id[name] for name in rows if name in by_id]
    ids: list[str] = []
    maps: list[Tensor] = []
    for some in _iter_batches(run, dataset, wanted):
        maps.append(_compute_batch_maps(run, some, rows, method))
        ids += some.ids
    document: dict[str, Any] = {
        "split": split,
        "method": method,
        "image_size": list(run.preprocess.image_size),
        "ids": ids,
        "unreadable": [name for name in rows if name not in ids],
        "distance": None,
        "notes": [],
    }
    if model.config.num_frames:
        document["notes"].append(
            f"A {type(model).__name__} attends in space and time, so there is no "
            "attention distance, which is between the patches of an image."
        )
    elif method == "rollout":
        document["distance"] = _compute_distance(run, run_folder, dataset, split)
    else:
        document["notes"].append(
            f"A {type(model).__name__} has no attention: the maps are Grad-CAM, and "
            "there is no attention distance."
        )
    if not document["notes"] and document["distance"] is None:
        document["notes"].append(
            f"No image of {split} could be read, so there is no attention distance."
        )
    stacked = torch.cat(maps).numpy() if maps else np.zeros((0, 0, 0))
    return _MapSet(document, stacked)


def _has_attention(model: VisionModel) -> bool:
    return any(isinstance(module, Attention) for module in model.modules())


def _iter_batches(
    run: Run, dataset: Dataset, examples: Sequence[Example]
) -> Iterator[_ImageBatch]:
    """Images as they are evaluated, clips in one view; those that cannot be read are
    left out."""
    rows, columns = run.model.config.grid
    patches = rows * columns * max(1, run.model.config.num_frames)
    size = min(16, max(1, MAX_ATTENTION_ELEMENTS // patches**2))
    for start in range(0, len(examples), size):
        ids, pixels = [], []
        for example in examples[start : start + size]:
            try:
                pixels.append(load_example(run.preprocess, dataset, example))
            except (ImageError, OSError):
                continue
            ids.append(example.id)
        if ids:
            device = next(run.model.parameters()).device
            yield _ImageBatch(ids, torch.stack(pixels).to(device))


def _compute_batch_maps(
    run: Run, batch: _ImageBatch, rows: dict[str, Prediction], method: str
) -> Tensor:
    if method == "rollout":
        return rollout(run.model, batch.pixels)
    answered = [run.classes.index(rows[name].predicted) for name in batch.ids]
    classes = torch.tensor(answered, device=batch.pixels.device)
    return grad_cam(run.model, batch.pixels, classes)


def _compute_distance(
    run: Run, run_folder: RunFolder, dataset: Dataset, split: str
) -> dict[str, Any] | None:
    """Every head's mean distance in pixels over images of all classes alike."""
    bad = {row.get("path") for row in (run_folder.data or {}).get("bad") or []}
    examples = [e for e in dataset.select(split) if e.id not in bad]
    number = min(MAX_DISTANCE_IMAGES, len(examples))
    evenly = [examples[i * len(examples) // number] for i in range(number)]
    total, seen, even = torch.zeros(1, 1, dtype=torch.float64), 0, 0.0
    for some in _iter_batches(run, dataset, evenly):
        even = even or _uniform_distance(run.model, some.pixels)
        mean = attention_distance(run.model, some.pixels, batch_size=len(some.ids))
        total, seen = total + mean.double() * len(some.ids), seen + len(some.ids)
    if not seen:
        return None
    layers = [[round(head, 4) for head in layer] for layer in (total / seen).tolist()]
    heads = [head for layer in layers for head in layer]
    near = sum(head < even / 2 for head in heads)
    return {
        "images": seen,
        "uniform": round(even, 4),
        "layers": layers,
        "layer_means": [round(sum(layer) / len(layer), 4) for layer in layers],
        "heads": len(heads),
        "heads_near": near,
        "share_near": round(near / len(heads), 6),
    }


@torch.no_grad()
def _uniform_distance(model: VisionModel, pixels: Tensor) -> float:
    """The distance of attention that is the same for all tokens of such an image."""
    tokens = model.embed(pixels[:1])
    grid = Grid(tokens.rows, tokens.columns)
    patch = (pixels.shape[-2] / grid.rows, pixels.shape[-1] / grid.columns)
    prefix = model.config.num_prefix_tokens
    return uniform_distance(grid, patch, num_prefix_tokens=prefix)
