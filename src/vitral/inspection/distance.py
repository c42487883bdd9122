"""Mean attention distance of heads (arXiv 2010.11929, figures 7 and 11).

It is the distance between the centres of query and key patch in pixels, weighted by the
attention weights and averaged over queries. Prefix tokens are left out without a new
normalisation, as in the authors' code: weight on the class token shortens the distance.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import SupportsClips, has_attention, iter_layers
from vitral.layers import Grid
from vitral.models import VisionModel

PatchSize = tuple[float | int, float | int]
"""Height and width of a patch in pixels."""


def attention_distance(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "layers heads"]:
    """Return the mean attention distance of each head in pixels of the model's input.

    Args:
        images: preprocessed; the paper takes 128.
        batch_size: images a forward pass. Memory is that of one layer's weights:
            batch x heads x tokens x tokens numbers.

    Raises:
        ConfigError: the model has no attention, or there are no images.
    """
    if not len(images):
        raise ConfigError("attention_distance needs at least one image: got none.")
    total: Tensor | None = None
    for batch in images.split(batch_size):
        sums = []
        pairs: Tensor | None = None
        for layer in iter_layers(model, batch):
            if not layer.is_global:
                continue
            if pairs is None:
                rows, columns = layer.grid
                patch = (images.shape[-2] / rows, images.shape[-1] / columns)
                pairs = pair_distances(layer.grid, patch).to(layer.weights)
            prefix = layer.num_prefix_tokens
            sums.append(head_distance(layer.weights, pairs, prefix).sum(dim=0).cpu())
            del layer
        if not sums:
            raise ConfigError(
                "A distance needs attention between all patches of an image: no layer "
                f"of this {type(model).__name__} has it."
            )
        batch_sum = torch.stack(sums)
        total = batch_sum if total is None else total + batch_sum
    assert total is not None
    return total / len(images)


def distance_obstacle(model: VisionModel) -> str:
    """Return why a model has no attention distance, in a sentence; empty if it has."""
    name = type(model).__name__
    if isinstance(model, SupportsClips):
        return (
            f"A {name} attends in space and time, so there is no attention distance, "
            "which is between the patches of an image."
        )
    if not has_attention(model):
        return (
            f"A {name} has no attention: the maps are Grad-CAM, and there is no "
            "attention distance."
        )
    return ""


def head_distance(
    weights: Float[Tensor, "batch heads tokens tokens"],
    pairs: Float[Tensor, "patches patches"],
    num_prefix_tokens: int,
) -> Float[Tensor, "batch heads"]:
    """Return the mean distance of each head and image, in the unit of `pairs`."""
    between = weights[:, :, num_prefix_tokens:, num_prefix_tokens:]
    return torch.einsum("bhij,ij->bh", between, pairs) / len(pairs)


def pair_distances(grid: Grid, patch: PatchSize) -> Float[Tensor, "patches patches"]:
    """Return the pixels between the centres of any two patches, in float64.

    Args:
        patch: height and width of a patch in pixels.
    """
    y = torch.arange(grid.rows, dtype=torch.float64) * patch[0]
    x = torch.arange(grid.columns, dtype=torch.float64) * patch[1]
    centers = torch.cartesian_prod(y, x).view(-1, 2)
    return (centers[:, None] - centers[None, :]).norm(dim=-1)


def uniform_distance(
    grid: Grid, patch: PatchSize, *, num_prefix_tokens: int = 0
) -> float:
    """Return the distance in pixels of a head with equal weights for all tokens.

    Args:
        patch: height and width of a patch in pixels.
        num_prefix_tokens: tokens that take their share of weight at distance 0.
    """
    patches = grid.rows * grid.columns
    mean = float(pair_distances(grid, patch).mean())
    return mean * patches / (patches + num_prefix_tokens)
