"""Is an explanation true of the model? Two questions that need no human eye.

Deletion and insertion (arXiv 1806.07421): take the patches that a map ranks highest out
of the image, or put only them in, and watch the probability of the class. Below a
random order, a deletion curve says that the model used those patches; an insertion
curve says so above it.

Randomisation (arXiv 1810.03292): replace what the model has learned, from the head
downwards. A map that stays the same shows the image and not the model.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.models.base import VisionModel

FILLS = ("mean", "blur")
"""What stands where a patch is taken out: the mean colour of its image, which holds no
detail but has edges; or the image blurred by a Gaussian of one patch, which has no
edges but keeps what is larger than a patch."""

Explain = Callable[[VisionModel, Tensor], Tensor]
"""(model, images) to maps [batch, rows, columns]."""


class FaithfulnessCurve(NamedTuple):
    """The probability of the class while patches go or come."""

    shares: Float[Tensor, " steps"]
    """Share of the patches that have been taken out or put in, 0 ... 1."""
    scores: Float[Tensor, "batch steps"]
    area: Float[Tensor, " batch"]
    """Under each curve, by the trapezoid rule."""


class Randomization(NamedTuple):
    """How alike the maps stay while the model is destroyed."""

    parts: tuple[str, ...]
    """Randomised so far, this part and all before it."""
    correlation: Float[Tensor, "parts batch"]
    """Spearman's, with the map of the whole model; 0 if a map is constant."""


def deletion(
    model: VisionModel,
    images: Float[Tensor, "batch channels height width"],
    maps: Float[Tensor, "maps rows columns"],
    classes: Int[Tensor, " labels"] | None = None,
    *,
    steps: int = 20,
    fill: str = "mean",
) -> FaithfulnessCurve:
    """Take patches out, the highest of the map first. A small area is good.

    Args:
        images: as the model takes them.
        maps: one number a patch; of equal ones the first in reading order counts more.
        classes: whose probability is watched; None for the one that the model predicts
            for the whole image.
        steps: in how many goes; at most one for each patch.
        fill: one of FILLS.

    Raises:
        ConfigError: maps, classes or steps do not fit the images or the model.
    """
    rank = _rank_patches(images, maps)
    filled = _fill_images(images, maps, fill)
    return _measure_curve(
        model, images, rank, classes, steps, before=images, after=filled
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
    """Start from the filled image and put patches in, the highest of the map first.

    A large area is good. Arguments and errors as in `deletion`.
    """
    rank = _rank_patches(images, maps)
    filled = _fill_images(images, maps, fill)
    return _measure_curve(
        model, images, rank, classes, steps, before=filled, after=images
    )


def random_order(
    maps: Float[Tensor, "batch rows columns"], seed: int
) -> Float[Tensor, "batch rows columns"]:
    """Maps of the same shape that rank the patches at random: the baseline."""
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

    Cascading: first what follows the last block, then each block from the last to the
    first, then the stem. Within each tensor the entries change places, which keeps
    their distribution. Works on a copy, in evaluation mode.

    An explanation by attention alone cannot see the head: it keeps correlation 1 there.

    Args:
        explain: must ask for the same classes each time if its maps are of a class; a
            predicted class changes with the weights.
    """
    private = copy.deepcopy(model).eval()
    reference = explain(private, images).detach()
    random = torch.Generator().manual_seed(seed)
    depth = private.config.num_blocks
    found = []
    for layer in range(depth + 1, -1, -1):
        for name, parameter in private.named_parameters():
            if private.layer_index(name) == layer:
                _shuffle_(parameter, random)
        found.append(rank_correlation(reference, explain(private, images).detach()))
    blocks = [f"block {layer}" for layer in range(depth - 1, -1, -1)]
    return Randomization(("head", *blocks, "stem"), torch.stack(found))


def rank_correlation(
    first: Float[Tensor, "batch rows columns"],
    second: Float[Tensor, "batch rows columns"],
) -> Float[Tensor, " batch"]:
    """Spearman's, of each pair of maps; ties share a rank, a constant map gives 0."""
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
    """0 for the patch with the highest value of its map, 1 for the next ..."""
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
    """A matrix that blurs a line; at the borders the weights are those inside."""
    at = torch.arange(length, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((at[:, None] - at[None]) / deviation) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


@torch.no_grad()
def _measure_curve(
    model: VisionModel,
    images: Tensor,
    rank: Tensor,
    classes: Tensor | None,
    steps: int,
    *,
    before: Tensor,
    after: Tensor,
) -> FaithfulnessCurve:
    num_patches = rank[0].numel()
    if steps < 1:
        raise ConfigError(f"`steps` must be at least 1: got {steps}.")
    goes = torch.linspace(0, num_patches, min(steps, num_patches) + 1)
    counts = goes.double().round().long()
    rank = rank.to(images.device)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        chosen = _target_classes(model(images), classes)
        scores = []
        for count in counts.tolist():
            changed = _patches_to_pixels(rank < count, images)
            logits = model(torch.where(changed, after, before))
            probability = logits.softmax(dim=1)
            scores.append(probability.gather(1, chosen[:, None])[:, 0].cpu())
    finally:
        for module in training:
            module.training = True
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
