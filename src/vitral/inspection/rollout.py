"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928, section 3; arXiv 2010.11929,
appendix D.8): what reaches a token through all layers, if attention and skips were all.

    R_l = (A_l + 1) / 2 R_{l-1},   A_l = mean of the heads' weights

It does not depend on the class: see relevance.py for what speaks for one. Of a clip
every attention step of a block is such a layer, over all tokens of the clip (clips.py).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection import clips
from vitral.inspection.capture import LayerAttention, iter_layers, uses_class_token
from vitral.inspection.maps import Geometry, normalize_by_max, patch_map
from vitral.models import VisionModel


def rollout(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch *frames rows columns"]:
    """How much each patch reaches what the head reads; each map's largest value is 1.

    The row of the class token; for a head that reads patches alone, the mean of their
    rows. Distillation and register tokens take part and are left out of the map. The
    map of a clip is one over all its frames.

    Args:
        images: preprocessed; clips for a model that takes clips.
        patch_mask: True where a patch takes part; the map is zero at the others.

    Raises:
        ConfigError: the model has no attention, or a mask was given for clips.
    """
    by_class_token = uses_class_token(model, images)
    if model.config.num_frames:
        steps = _clip_steps(model, images, patch_mask)
        places = clips.clip_places(model, images)
        row = clips.initial_row(places, steps[0].weights, by_class_token)
        return normalize_by_max(
            clips.propagate_rollout(row, steps)[:, 0, places.patches]
        ).cpu()
    rolled = _accumulate_layers(model, images, patch_mask)
    geometry = Geometry(
        rolled.layer.grid,
        rolled.layer.num_prefix_tokens,
        rolled.layer.mask,
        by_class_token,
    )
    return normalize_by_max(patch_map(rolled.matrix, geometry)).cpu()


def rollout_matrix(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch tokens tokens"]:
    """The whole matrix R of the last layer, on the CPU: rows sum to one.

    Raises:
        ConfigError: the model has no attention, or a mask was given for clips.
    """
    if model.config.num_frames:
        steps = _clip_steps(model, images, patch_mask)
        size = clips.clip_places(model, images).num_tokens
        weights = steps[0].weights
        rows = torch.eye(size).to(weights).expand(len(weights), size, size)
        return clips.propagate_rollout(rows, steps).cpu()
    return _accumulate_layers(model, images, patch_mask).matrix.cpu()


def accumulate(
    weights: Iterable[Float[Tensor, "batch heads tokens tokens"]],
) -> Float[Tensor, "batch tokens tokens"]:
    """R of these layers' weights, first layer first; one is held at a time.

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
    """One layer further: add the skip, let rows sum to one, multiply from the left."""
    with_skip = mean + torch.eye(mean.shape[-1]).to(mean)
    with_skip = with_skip / with_skip.sum(dim=-1, keepdim=True)
    return with_skip if previous is None else with_skip @ previous


def _clip_steps(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> list[clips.AttentionStep]:
    """Every attention step of a clip's pass, its heads averaged."""
    layers = iter_layers(model, images, patch_mask=patch_mask)
    return [clips.average_copies(_to_step(layer)) for layer in layers]


def _to_step(layer: LayerAttention) -> clips.AttentionStep:
    assert layer.members is not None
    groups = len(layer.members)
    return clips.AttentionStep(
        layer.weights.mean(dim=1).unflatten(0, (-1, groups)), layer.members
    )


class _RolloutResult(NamedTuple):
    matrix: Float[Tensor, "batch tokens tokens"]
    layer: LayerAttention
    """The last layer, its weights averaged: it knows the geometry."""


def _accumulate_layers(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> _RolloutResult:
    matrix, last = None, None
    layers = iter_layers(model, images, patch_mask=patch_mask)
    for layer in map(_average_heads, layers):
        if layer.is_global:
            matrix, last = rollout_step(layer.weights[:, 0], matrix), layer
    if matrix is None or last is None:
        raise ConfigError(
            "Rollout needs attention between all tokens of an image: no layer of this "
            f"{type(model).__name__} has it. See each_layer for what it has."
        )
    return _RolloutResult(matrix, last)


def _average_heads(layer: LayerAttention) -> LayerAttention:
    # In place of the heads, so that no layer is held with all of them.
    return replace(layer, weights=layer.weights.mean(dim=1, keepdim=True))


def _head_mean(
    weights: Float[Tensor, "batch heads tokens tokens"],
) -> Float[Tensor, "batch tokens tokens"]:
    return weights.mean(dim=1)
