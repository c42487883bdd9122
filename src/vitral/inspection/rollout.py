"""Attention rollout (arXiv 2005.00928, section 3; arXiv 2010.11929, appendix D.8).

    R_l = (A_l + 1) / 2 R_{l-1},   A_l = mean of the heads' weights

The map does not depend on the class: see relevance.py for maps that do. For a clip
every attention step of a block is a layer over all its tokens (clips.py).
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection import clips
from vitral.inspection.capture import (
    LayerAttention,
    SupportsClips,
    iter_layers,
    uses_class_token,
)
from vitral.inspection.maps import Geometry, normalize_by_max, patch_map
from vitral.models import VisionModel


def rollout(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch *frames rows columns"]:
    """Return the rollout of each patch to the head's input, with a largest value of 1.

    It is the row of the class token, or the mean of the patches' rows if the head reads
    patches alone. Distillation and register tokens take part and are left out of the
    map. A clip has one map over all its frames.

    Args:
        images: preprocessed; clips for a model of clips.
        patch_mask: True where a patch takes part; the map is zero at the others.

    Raises:
        ConfigError: the model has no attention, or a mask was given for clips.
    """
    by_class_token = uses_class_token(model, images)
    if isinstance(model, SupportsClips):
        steps = _clip_steps(model, images, patch_mask)
        places = clips.clip_places(model, images)
        return clips.clip_map(places, steps, by_class_token, clips.propagate_rollout)
    matrix, layer = _accumulate_layers(model, images, patch_mask)
    geometry = Geometry(layer.grid, layer.num_prefix_tokens, layer.mask, by_class_token)
    return normalize_by_max(patch_map(matrix, geometry)).cpu()


def rollout_matrix(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch tokens tokens"]:
    """Return the full matrix R of the last layer, on the CPU; rows sum to one.

    Raises:
        ConfigError: the model has no attention, or a mask was given for clips.
    """
    if isinstance(model, SupportsClips):
        steps = _clip_steps(model, images, patch_mask)
        size = clips.clip_places(model, images).num_tokens
        weights = steps[0].weights
        rows = torch.eye(size).to(weights).expand(len(weights), size, size)
        return clips.propagate_rollout(rows, steps).cpu()
    return _accumulate_layers(model, images, patch_mask)[0].cpu()


def accumulate(
    weights: Iterable[Float[Tensor, "batch heads tokens tokens"]],
) -> Float[Tensor, "batch tokens tokens"]:
    """Return R of these layers' weights, first layer first, one in memory at a time.

    Raises:
        ConfigError: there is no layer.
    """
    matrix = None
    for mean in map(_head_mean, weights):
        matrix = rollout_step(mean, matrix)
    if matrix is None:
        raise ConfigError("Rollout needs the weights of at least one layer: got none.")
    return matrix


def rollout_step(
    mean: Float[Tensor, "batch tokens tokens"],
    previous: Float[Tensor, "batch tokens tokens"] | None,
) -> Float[Tensor, "batch tokens tokens"]:
    """Add the skip to a layer, normalise its rows, and multiply it from the left."""
    with_skip = mean + torch.eye(mean.shape[-1]).to(mean)
    with_skip = with_skip / with_skip.sum(dim=-1, keepdim=True)
    return with_skip if previous is None else with_skip @ previous


def _clip_steps(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> list[clips.AttentionStep]:
    """Return every attention step of a clip's forward pass, its heads averaged."""
    layers = iter_layers(model, images, patch_mask=patch_mask)
    return [clips.average_copies(_to_step(layer)) for layer in layers]


def _to_step(layer: LayerAttention) -> clips.AttentionStep:
    assert layer.members is not None
    groups = len(layer.members)
    return clips.AttentionStep(
        layer.weights.mean(dim=1).unflatten(0, (-1, groups)), layer.members
    )


def _accumulate_layers(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> tuple[Float[Tensor, "batch tokens tokens"], LayerAttention]:
    """Return R and the last layer, which has the geometry."""
    matrix, last = None, None
    layers = iter_layers(model, images, patch_mask=patch_mask)
    for layer in map(_average_heads, layers):
        if layer.is_global:
            matrix, last = rollout_step(layer.weights[:, 0], matrix), layer
    if matrix is None or last is None:
        raise ConfigError(
            "Rollout needs attention between all tokens of an image: no layer of this "
            f"{type(model).__name__} has it. See iter_attention for what it has."
        )
    return matrix, last


def _average_heads(layer: LayerAttention) -> LayerAttention:
    # Replace the heads, so that no layer keeps all of them in memory.
    return replace(layer, weights=layer.weights.mean(dim=1, keepdim=True))


def _head_mean(
    weights: Float[Tensor, "batch heads tokens tokens"],
) -> Float[Tensor, "batch tokens tokens"]:
    return weights.mean(dim=1)
