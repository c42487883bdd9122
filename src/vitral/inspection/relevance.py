"""Which patches speak for a class: attention weights times their gradients.

    A_l = mean over heads of (gradient * weights)^+

`relevance` is arXiv 2103.15679, equations 5 and 6: R <- R + A_l R. `gradient_rollout`
puts the same A_l in place of the mean weights of attention rollout (arXiv 2005.00928).
Gradients are of one logit. No parameter's `.grad` is written.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import (
    Call,
    attentions,
    batched,
    catching,
    evaluating,
    keeping_outputs,
    reads_class_token,
    visible_weights,
)
from vitral.inspection.maps import Geometry, by_maximum, patch_map
from vitral.inspection.rollout import step
from vitral.inspection.target import require_head, score
from vitral.layers import Grid
from vitral.models import VisionModel


def relevance(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    classes: Int[Tensor, "named"] | int | None = None,
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch rows columns"]:
    """How much each patch speaks for a class; each map's largest value is 1.

    Args:
        classes: one for all images, one for each, or None for the predicted ones.
        patch_mask: True where a patch takes part; the map is zero at the others.

    Raises:
        ConfigError: the model has no attention or no head, or not such a class.
    """
    layers, geometry = _weighted(model, images, classes, patch_mask)
    matrix: Tensor | None = None
    for weighted in layers:
        if matrix is None:
            matrix = torch.eye(weighted.shape[-1]).to(weighted).expand_as(weighted)
        matrix = matrix + weighted @ matrix
    return _map(matrix, geometry)


def gradient_rollout(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    classes: Int[Tensor, "named"] | int | None = None,
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch rows columns"]:
    """Attention rollout of weights that speak for a class; each map's largest is 1.

    Args:
        classes: one for all images, one for each, or None for the predicted ones.
        patch_mask: True where a patch takes part; the map is zero at the others.

    Raises:
        ConfigError: the model has no attention or no head, or not such a class.
    """
    layers, geometry = _weighted(model, images, classes, patch_mask)
    matrix: Tensor | None = None
    for weighted in layers:
        matrix = step(weighted, matrix)
    return _map(matrix, geometry)


def _map(matrix: Tensor | None, geometry: Geometry) -> Tensor:
    if matrix is None:
        raise ConfigError(
            "A map of relevance needs attention between all tokens of an image: no "
            "layer of this model has it."
        )
    return by_maximum(patch_map(matrix, geometry)).cpu()


def _weighted(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    classes: Int[Tensor, "named"] | int | None,
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> tuple[Iterator[Float[Tensor, "batch tokens tokens"]], Geometry]:
    """The weighted attention of each layer, one at a time, and the geometry.

    The pass stays fused: of each layer only input, output and the output's gradient
    are kept, and its weights and their gradient are computed from them.
    """
    watched = dict(enumerate(attentions(model)))
    require_head(model)
    images = batched(model, images)
    by_class_token = reads_class_token(model, images)
    if patch_mask is not None:
        patch_mask = patch_mask.to(images.device)
    with torch.inference_mode(False), evaluating(model.modules()):
        with torch.no_grad():
            tokens = model.embed(images, patch_mask)
        # A parameter may be frozen, so it is the tokens that carry the gradient.
        x = tokens.x.detach().requires_grad_()
        with (
            torch.enable_grad(),
            catching(watched) as calls,
            keeping_outputs(watched) as outputs,
        ):
            encoded = model.encode(tokens._replace(x=x))
            logits = model.forward_head(model.finish(encoded))
            # Attention within a patch is not between patches, and of frozen weights
            # it may have no gradient at all.
            seen = [
                (call, output)
                for call, output in zip(calls, outputs, strict=True)
                if call.x.shape == x.shape and not model.config.num_frames
            ]
            gradients = _gradients(score(logits, classes), [out for _, out in seen])
    pairs = [
        (replace(call, x=call.x.detach()), gradient)
        for (call, _), gradient in zip(seen, gradients, strict=True)
    ]
    # The graph holds every activation: let go of it before the first large matrix.
    del calls, outputs, seen, encoded, logits, gradients

    layers = (_positive(call, gradient, tokens.mask) for call, gradient in pairs)
    geometry = Geometry(
        Grid(tokens.rows, tokens.columns),
        model.config.num_prefix_tokens,
        patch_mask,
        by_class_token,
    )
    return layers, geometry


def _gradients(value: Tensor, outputs: list[Tensor]) -> tuple[Tensor, ...]:
    if not outputs:
        return ()
    return torch.autograd.grad(value, outputs, materialize_grads=True)


@torch.no_grad()
def _positive(
    call: Call,
    gradient: Float[Tensor, "batch tokens dim"],
    takes_part: Bool[Tensor, "batch tokens"] | None,
) -> Float[Tensor, "batch tokens tokens"]:
    """Mean over the heads of (gradient * weights)^+ of one layer."""
    slope = call.attention.weights_gradient(call.x, gradient)
    slope *= visible_weights(call, takes_part)
    return slope.clamp_min_(0).mean(dim=1)
