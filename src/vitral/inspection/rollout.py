"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928, section 3; arXiv 2010.11929,
appendix D.8): what reaches a token through all layers, if attention and skips were all.

    R_l = (A_l + 1) / 2 R_{l-1},   A_l = mean of the heads' weights

It does not depend on the class: see relevance.py for what speaks for one.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import Layer, reads_class_token, stream
from vitral.inspection.maps import Geometry, by_maximum, patch_map
from vitral.models import VisionModel


def rollout(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch rows columns"]:
    """How much each patch reaches what the head reads; each map's largest value is 1.

    The row of the class token; for a head that reads patches alone, the mean of their
    rows. Distillation and register tokens take part and are left out of the map.

    Args:
        patch_mask: True where a patch takes part; the map is zero at the others.

    Raises:
        ConfigError: the model has no attention.
    """
    by_class_token = reads_class_token(model, images)
    rolled = _rolled(model, images, patch_mask)
    geometry = Geometry(
        rolled.layer.grid,
        rolled.layer.num_prefix_tokens,
        rolled.layer.mask,
        by_class_token,
    )
    return by_maximum(patch_map(rolled.matrix, geometry)).cpu()


def rollout_matrix(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch tokens tokens"]:
    """The whole matrix R of the last layer, on the CPU: rows sum to one.

    Raises:
        ConfigError: the model has no attention.
    """
    return _rolled(model, images, patch_mask).matrix.cpu()


def accumulate(
    weights: Iterable[Float[Tensor, "batch heads tokens tokens"]],
) -> Float[Tensor, "batch tokens tokens"]:
    """R of these layers' weights, first layer first; one is held at a time.

    Raises:
        ConfigError: there is no layer.
    """
    matrix = None
    for mean in map(_mean_of_heads, weights):
        matrix = step(mean, matrix)
    if matrix is None:
        raise ConfigError("Rollout needs the weights of at least one layer: got none.")
    return matrix


def step(
    mean: Float[Tensor, "batch tokens tokens"],
    before: Float[Tensor, "batch tokens tokens"] | None,
) -> Float[Tensor, "batch tokens tokens"]:
    """One layer further: add the skip, let rows sum to one, multiply from the left."""
    with_skip = mean + torch.eye(mean.shape[-1]).to(mean)
    with_skip = with_skip / with_skip.sum(dim=-1, keepdim=True)
    return with_skip if before is None else with_skip @ before


class _Rolled(NamedTuple):
    matrix: Float[Tensor, "batch tokens tokens"]
    layer: Layer
    """The last layer, its weights averaged: it knows the geometry."""


def _rolled(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> _Rolled:
    matrix, last = None, None
    layers = stream(model, images, patch_mask=patch_mask)
    for layer in map(_averaged, layers):
        if layer.of_image:
            matrix, last = step(layer.weights[:, 0], matrix), layer
    if matrix is None or last is None:
        raise ConfigError(
            "Rollout needs attention between all tokens of an image: no layer of this "
            f"{type(model).__name__} has it. See each_layer for what it has."
        )
    return _Rolled(matrix, last)


def _averaged(layer: Layer) -> Layer:
    # In place of the heads, so that no layer is held with all of them.
    return replace(layer, weights=layer.weights.mean(dim=1, keepdim=True))


def _mean_of_heads(
    weights: Float[Tensor, "batch heads tokens tokens"],
) -> Float[Tensor, "batch tokens tokens"]:
    return weights.mean(dim=1)
