"""Evidence for a class in patches: attention weights times their gradients.

    A_l = mean over heads of (gradient * weights)^+

`relevance` is arXiv 2103.15679, equations 5 and 6: R <- R + A_l R. `gradient_rollout`
uses the same A_l in attention rollout (arXiv 2005.00928). For a clip every attention
step of a block is a layer over all its tokens (clips.py). No `.grad` is written.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection import clips
from vitral.inspection.capture import (
    AttentionCall,
    attention_layers,
    eval_mode,
    expand_to_all_tokens,
    get_places,
    record_inputs,
    record_outputs,
    require_batch,
    uses_class_token,
)
from vitral.inspection.maps import (
    Geometry,
    normalize_by_max,
    patch_map,
    require_head,
    sum_target_logits,
)
from vitral.inspection.rollout import rollout_step
from vitral.models import VisionModel
from vitral.models.timesformer import TokenIndices


def relevance(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    classes: Int[Tensor, "named"] | int | None = None,
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch *frames rows columns"]:
    """Return the evidence for a class of each patch; each map's largest value is 1.

    Args:
        classes: one for all images, one for each, or None for the predicted ones.
        patch_mask: True where a patch takes part; the map is zero at the others.

    Raises:
        ConfigError: the model has no attention or no head, or not such a class, or a
            mask was given for clips.
    """
    layers, geometry, places = _weighted_attention(model, images, classes, patch_mask)
    if places is not None:
        return _clip_map(layers, geometry, places, clips.propagate_relevance)
    return _image_map(layers, geometry, _relevance_step)


def gradient_rollout(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    classes: Int[Tensor, "named"] | int | None = None,
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch *frames rows columns"]:
    """Return the rollout of attention times gradient; each map's largest value is 1.

    For arguments and errors see `relevance`.

    Raises:
        ConfigError: the model has no attention or no head, or not such a class, or a
            mask was given for clips.
    """
    layers, geometry, places = _weighted_attention(model, images, classes, patch_mask)
    if places is not None:
        return _clip_map(layers, geometry, places, clips.propagate_rollout)
    return _image_map(layers, geometry, rollout_step)


def _relevance_step(weighted: Tensor, previous: Tensor | None) -> Tensor:
    """Return R + A_l R, with R = 1 before the first layer."""
    if previous is None:
        previous = torch.eye(weighted.shape[-1]).to(weighted).expand_as(weighted)
    return previous + weighted @ previous


def _image_map(
    layers: Iterator[Float[Tensor, "batch tokens tokens"]],
    geometry: Geometry,
    step: Callable[[Tensor, Tensor | None], Tensor],
) -> Float[Tensor, "batch rows columns"]:
    matrix: Tensor | None = None
    for weighted in layers:
        matrix = step(weighted, matrix)
    if matrix is None:
        raise ConfigError(
            "A map of relevance needs attention between all tokens of an image: no "
            "layer of this model has it."
        )
    return normalize_by_max(patch_map(matrix, geometry)).cpu()


def _clip_map(
    layers: Iterator[Float[Tensor, "sequences line line"]],
    geometry: Geometry,
    places: TokenIndices,
    propagate: Callable[[Tensor, Sequence[clips.AttentionStep]], Tensor],
) -> Float[Tensor, "batch frames rows columns"]:
    """Return the map of clips; copies of a token add up, as each has its gradient."""
    steps = []
    for index, weighted in enumerate(layers):
        members = places.get_layer_members(index)
        steps.append(
            clips.AttentionStep(weighted.unflatten(0, (-1, len(members))), members)
        )
    return clips.clip_map(places, steps, geometry.by_class_token, propagate)


def _weighted_attention(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    classes: Int[Tensor, "named"] | int | None,
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> tuple[
    Iterator[Float[Tensor, "sequences tokens tokens"]], Geometry, TokenIndices | None
]:
    """Return the weighted attention of the layers, the geometry, and a clip's tokens.

    The pass stays fused: only input, output and the output's gradient of each layer are
    stored, and its weights and their gradient are computed from them.
    """
    watched = dict(enumerate(attention_layers(model)))
    require_head(model)
    images = require_batch(model, images)
    by_class_token = uses_class_token(model, images)
    if patch_mask is not None:
        patch_mask = patch_mask.to(images.device)
    with torch.inference_mode(False), eval_mode(model.modules()):
        with torch.no_grad():
            tokens = model.embed(images, patch_mask)
        places = get_places(model, tokens)
        # Parameters may be frozen, so the tokens carry the gradient.
        x = tokens.x.detach().requires_grad_()
        with (
            torch.enable_grad(),
            record_inputs(watched) as calls,
            record_outputs(watched) as outputs,
        ):
            encoded = model.forward_blocks(tokens._replace(x=x))
            logits = model.forward_head(model.forward_norm(encoded))
            # Attention within a patch is not between patches, and may have no gradient
            # if its weights are frozen.
            captured = [
                (call, output)
                for call, output in zip(calls, outputs, strict=True)
                if places is not None or call.merged or call.x.shape == x.shape
            ]
            gradients = _gradients(
                sum_target_logits(logits, classes), [out for _, out in captured]
            )
    pairs = [
        (replace(call, x=call.x.detach()), gradient)
        for (call, _), gradient in zip(captured, gradients, strict=True)
    ]
    # The graph holds every activation: free it before the first large matrix.
    del calls, outputs, captured, encoded, logits, gradients

    layers = (
        _weight_by_gradient(call, gradient, tokens.mask) for call, gradient in pairs
    )
    geometry = Geometry(
        tokens.grid,
        model.config.num_prefix_tokens,
        patch_mask,
        by_class_token,
    )
    return layers, geometry, places


def _gradients(value: Tensor, outputs: list[Tensor]) -> tuple[Tensor, ...]:
    if not outputs:
        return ()
    return torch.autograd.grad(value, outputs, materialize_grads=True)


@torch.no_grad()
def _weight_by_gradient(
    call: AttentionCall,
    gradient: Float[Tensor, "batch left dim"],
    takes_part: Bool[Tensor, "batch tokens"] | None,
) -> Float[Tensor, "batch tokens tokens"]:
    """Return the mean over heads of (gradient * weights)^+, for all tokens."""
    slope = call.attention.weights_gradient(call.x, gradient)
    slope *= call.attention.attention_weights(call.x, call.grid, call.mask, call.merged)
    positive = slope.clamp_min_(0).mean(dim=1, keepdim=True)
    if call.merged is not None:
        # A token of s patches counts as s equal ones, which share its gradient.
        positive /= call.merged.size.clamp(min=1)[:, None, :, None]
    return expand_to_all_tokens(positive, call, takes_part)[:, 0]
