"""Two automatic tests of an explanation: deletion and insertion, and randomisation.

Deletion and insertion (arXiv 1806.07421) remove or add the patches that a map ranks
highest. The model used them if deletion is below a random order, or insertion above it.
Randomisation (arXiv 1810.03292) shuffles weights: a map that stays ignores the model.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import eval_mode
from vitral.models.base import VisionModel
from vitral.validation import at_least

FILLS = ("mean", "blur")
"""Fill of a removed patch: the mean colour of its image, which has no detail but edges,
or the image blurred by a Gaussian of one patch, which has no edges but keeps what is
larger than a patch."""

Explain = Callable[[VisionModel, Tensor], Tensor]
"""Function of (model, images) that returns maps [batch, rows, columns]."""


@dataclass(frozen=True, slots=True)
class FaithfulnessCurve:
    """The probability of the class while patches are removed or added."""

    shares: Float[Tensor, " steps"]
    """Share of the patches that are removed or added, 0 ... 1."""
    scores: Float[Tensor, "batch steps"]
    area: Float[Tensor, " batch"]
    """Area under each curve, by the trapezoid rule."""


@dataclass(frozen=True, slots=True)
class Randomization:
    """Correlation of the maps with the original ones while weights are shuffled."""

    parts: tuple[str, ...]
    """Part randomised at each step, together with all before it."""
    correlation: Float[Tensor, "parts batch"]
    """Spearman's, with the map of the original model; 0 if a map is constant."""


def deletion(
    model: VisionModel,
    images: Float[Tensor, "batch channels height width"],
    maps: Float[Tensor, "maps rows columns"],
    classes: Int[Tensor, " labels"] | None = None,
    *,
    steps: int = 20,
    fill: str = "mean",
) -> FaithfulnessCurve:
    """Remove patches, the highest of the map first. A small area is good.

    Args:
        images: preprocessed.
        maps: one number a patch; of equal ones the first in reading order counts more.
        classes: class of each image whose probability is measured. None: the one that
            the model predicts for the full image.
        steps: number of steps, at most one for each patch.
        fill: one of FILLS.

    Raises:
        ConfigError: maps, classes or steps do not fit the images or the model.
    """
    return _measure_curve(
        model, images, maps, classes, steps=steps, fill=fill, insert=False
    )


def insertion(
    model: VisionModel,
    images: Float[Tensor, "batch channels height width"],
    maps: Float[Tensor, "maps rows columns"],
    classes: Int[Tensor, " labels"] | None = None,
    *,
    steps: int = 20,
    fill: str = "mean",
) -> FaithfulnessCurve:
    """Add patches to the filled image, the highest of the map first.

    A large area is good. For arguments and errors see `deletion`.
    """
    return _measure_curve(
        model, images, maps, classes, steps=steps, fill=fill, insert=True
    )


def random_order(
    maps: Float[Tensor, "batch rows columns"], seed: int
) -> Float[Tensor, "batch rows columns"]:
    """Return maps of the same shape that rank the patches at random: the baseline."""
    random = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(maps[0].numel(), generator=random) for _ in maps]
    return torch.stack(orders).reshape(maps.shape).to(torch.float32)


def randomization_check(
    model: VisionModel,
    images: Float[Tensor, "batch channels height width"],
    explain: Explain,
    seed: int = 0,
) -> Randomization:
    """Compare maps with those of the model after its weights have been shuffled.

    The shuffling cascades: first the layers after the last block, then each block from
    the last to the first, then the stem. The entries of each tensor are permuted, which
    keeps their distribution. It runs on a copy, in evaluation mode.

    An explanation by attention alone ignores the head: it keeps correlation 1 there.

    Args:
        explain: returns the maps. Maps of a class need a fixed class, because a
            predicted one changes with the weights.
    """
    private = copy.deepcopy(model).eval()
    reference = explain(private, images).detach()
    random = torch.Generator().manual_seed(seed)
    depth = private.config.num_blocks
    correlations = []
    for layer in range(depth + 1, -1, -1):
        for name, parameter in private.named_parameters():
            if private.layer_index(name) == layer:
                _shuffle_(parameter, random)
        maps = explain(private, images).detach()
        correlations.append(rank_correlation(reference, maps))
    blocks = [f"block {layer}" for layer in range(depth - 1, -1, -1)]
    return Randomization(("head", *blocks, "stem"), torch.stack(correlations))


def rank_correlation(
    first: Float[Tensor, "batch rows columns"],
    second: Float[Tensor, "batch rows columns"],
) -> Float[Tensor, " batch"]:
    """Return Spearman's correlation of each pair of maps; 0 for a constant map."""
    from scipy.stats import rankdata

    ranks = [
        torch.from_numpy(rankdata(np.asarray(maps.flatten(1).cpu()), axis=1))
        for maps in (first, second)
    ]
    a, b = (rank - rank.mean(dim=1, keepdim=True) for rank in ranks)
    size = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(size > 0, (a * b).sum(1) / size.clamp(min=1e-12), 0.0)


@torch.no_grad()
def _shuffle_(parameter: Tensor, random: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=random).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))


def _rank_patches(images: Tensor, maps: Tensor) -> Int[Tensor, "batch rows columns"]:
    """Return 0 for the patch with the highest value of its map, 1 for the next ..."""
    batch, _, height, width = images.shape
    rows, columns = maps.shape[1:]
    if len(maps) != batch or height % rows or width % columns:
        raise ConfigError(
            f"`maps` must have one value per patch, [batch, rows, columns]: got "
            f"{tuple(maps.shape)} for {batch} images of {height} x {width} pixels "
            "(height x width), which are no whole patches. Give the maps of the same "
            "images at the model's own grid."
        )
    if not maps.isfinite().all():
        raise ConfigError(
            "`maps` holds values that are not finite, so patches cannot be ranked: "
            "look at the explanation that made it."
        )
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).reshape(maps.shape)


def _fill_images(images: Tensor, maps: Tensor, fill: str) -> Tensor:
    if fill not in FILLS:
        raise ConfigError(f"`fill` must be {' or '.join(FILLS)}: got {fill}.")
    if fill == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    rows, columns = maps.shape[1:]
    down = _gaussian(images.shape[2], images.shape[2] / rows).to(images)
    along = _gaussian(images.shape[3], images.shape[3] / columns).to(images)
    return down @ images @ along.T


def _gaussian(length: int, deviation: float) -> Float[Tensor, "length length"]:
    """Return a matrix that blurs a line; at the borders it normalises the weights."""
    x = torch.arange(length, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((x[:, None] - x[None]) / deviation) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


@torch.no_grad()
def _measure_curve(
    model: VisionModel,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None,
    *,
    steps: int,
    fill: str,
    insert: bool,
) -> FaithfulnessCurve:
    rank = _rank_patches(images, maps)
    filled = _fill_images(images, maps, fill)
    before, after = (filled, images) if insert else (images, filled)
    num_patches = rank[0].numel()
    at_least(1, steps=steps)
    counts = torch.linspace(0, num_patches, min(steps, num_patches) + 1)
    counts = counts.double().round().long()
    rank = rank.to(images.device)
    with eval_mode(model.modules()):
        targets = _target_classes(model(images), classes)
        scores = []
        for count in counts.tolist():
            changed = _patches_to_pixels(rank < count, images)
            logits = model(torch.where(changed, after, before))
            probability = logits.softmax(dim=1)
            scores.append(probability.gather(1, targets[:, None])[:, 0].cpu())
    stacked = torch.stack(scores, dim=1)
    shares = counts.to(stacked.dtype) / num_patches
    return FaithfulnessCurve(shares, stacked, torch.trapezoid(stacked, shares, dim=1))


def _target_classes(logits: Tensor, classes: Tensor | None) -> Int[Tensor, " batch"]:
    if classes is None:
        return logits.argmax(dim=1)
    batch, num_classes = logits.shape
    if (
        classes.shape != (batch,)
        or not ((classes >= 0) & (classes < num_classes)).all()
    ):
        raise ConfigError(
            f"`classes` must be one class index per image, 0 to {num_classes - 1} for "
            f"each of {batch} images: got {classes.tolist()}."
        )
    return classes.to(logits.device)


def _patches_to_pixels(
    patches: Bool[Tensor, "batch rows columns"], images: Tensor
) -> Bool[Tensor, "batch 1 height width"]:
    rows, columns = patches.shape[1:]
    tall = patches.repeat_interleave(images.shape[2] // rows, dim=1)
    return tall.repeat_interleave(images.shape[3] // columns, dim=2)[:, None]
