"""Capture of the inputs of attention layers by hooks, without changing the pass.

`Attention.attention_weights` computes the weights again from a captured input, so the
pass stays fused and its output bit-equal. Hooks and training modes are always undone,
and no hook outlives a step of a generator.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers import Attention, Grid, MergeState, expand_weights
from vitral.models import Features, VisionModel
from vitral.models.features import Tokens
from vitral.models.timesformer import TokenIndices


@dataclass(frozen=True)
class AttentionCall:
    """The arguments of one call of an attention."""

    index: int
    """Index of the layer among the model's attention layers."""
    attention: Attention
    x: Float[Tensor, "batch tokens dim"]
    grid: Grid
    mask: Float[Tensor, "batch 1 tokens tokens"] | None = None
    merged: MergeState | None = None
    """Patches of each token, in a model that merges tokens."""


@dataclass(frozen=True)
class LayerAttention:
    """The attention weights of one layer, and the positions of its patches."""

    index: int
    """Index among the model's attention layers, from 0."""
    weights: Float[Tensor, "batch heads tokens tokens"]
    """Rows are queries and sum to one; the row of a hidden patch is zero. Each patch of
    a merged token has the token's row, and an equal share of its column."""
    grid: Grid
    """Rows and columns of the patches."""
    num_prefix_tokens: int
    """Tokens before the patches: class, distillation and register tokens."""
    mask: Bool[Tensor, "batch rows columns"] | None
    """True for patches that take part. None: all of them."""
    is_global: bool
    """False for a layer that attends within a patch or along time."""
    members: Int[Tensor, "groups line"] | None = None
    """Index of each token of each group of a clip, whose groups follow each other in
    the weights. None: images."""


def has_attention(model: nn.Module) -> bool:
    """Return whether a module of the model is an attention."""
    return any(isinstance(module, Attention) for module in model.modules())


def attention_layers(model: VisionModel) -> list[Attention]:
    """Return the model's attention layers, in the order of its modules.

    Raises:
        ConfigError: it has none.
    """
    if not has_attention(model):
        raise ConfigError(
            f"A {type(model).__name__} has no attention to look at. What can be seen "
            "of it: grad_cam, embedding_filters and feature_colors."
        )
    return [module for module in model.modules() if isinstance(module, Attention)]


def resolve_indices(indices: Sequence[int] | None, count: int, what: str) -> list[int]:
    """Return `indices` counted from 0; all of them for None.

    Args:
        what: the argument's name for a message: "layers" or "heads".

    Raises:
        ConfigError: `indices` is empty, or one is out of range.
    """
    if indices is None:
        return list(range(count))
    if not indices:
        raise ConfigError(
            f"`{what}` must name at least one of the {count} {what}: got none. Leave "
            "it out for all."
        )
    for index in indices:
        if not -count <= index < count:
            raise ConfigError(
                f"There are {count} {what}, so one is named by {-count} to "
                f"{count - 1}: got {index}."
            )
    return [index % count for index in indices]


def require_batch(model: VisionModel, images: Float[Tensor, "batch *image"]) -> Tensor:
    """Return `images` on the model's device.

    Raises:
        ConfigError: the batch axis is missing.
    """
    if images.ndim < 4:
        raise ConfigError(
            "`images` must be [batch, channels, height, width]: got "
            f"{list(images.shape)}. Give `image[None]` for one image."
        )
    return images.to(next(model.parameters()).device)


def embed_only(model: VisionModel, images: Float[Tensor, "batch *image"]) -> Features:
    """Return the first image's features without the blocks, to learn its tokens.

    Raises:
        ConfigError: the model has no attention; a ResNet needs its blocks.
    """
    attention_layers(model)
    with torch.no_grad(), eval_mode(model.modules()):
        return model.forward_norm(model.embed(require_batch(model, images)[:1]))


def uses_class_token(model: VisionModel, images: Float[Tensor, "batch *image"]) -> bool:
    """Return whether the head reads the class token, not patches alone.

    The test changes the class token, so it needs no settings of a model family.
    """
    features = embed_only(model, images)
    if features.cls is None:
        return False
    # A slope, because a LayerNorm in the head removes a constant.
    slope = torch.linspace(0, 1, features.cls.shape[-1]).to(features.cls)
    changed = features._replace(cls=features.cls + slope)
    with torch.no_grad(), eval_mode(model.modules()):
        before, after = model.forward_pool(features), model.forward_pool(changed)
    return not torch.equal(before, after)


@runtime_checkable
class SupportsClips(Protocol):
    """A model whose tokens have positions in a clip."""

    def token_indices(self, tokens: Tokens) -> TokenIndices: ...


def get_places(model: VisionModel, tokens: Tokens) -> TokenIndices | None:
    """Return the indices of a clip's tokens; None for a model of images."""
    return model.token_indices(tokens) if isinstance(model, SupportsClips) else None


@contextmanager
def eval_mode(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Switch modules to evaluation mode inside, and restore each one's mode after.

    Args:
        parts: all modules, because frozen ones may differ from the model's mode.
    """
    training = [module for module in parts if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def record_inputs(watched: dict[int, Attention]) -> Iterator[list[AttentionCall]]:
    """Yield a list that collects the calls of these layers, in order."""
    calls: list[AttentionCall] = []
    with ExitStack() as hooks:
        for index, module in watched.items():

            def catch(
                module: nn.Module, args: tuple, kwargs: dict, index: int = index
            ) -> None:
                assert isinstance(module, Attention)
                calls.append(AttentionCall(index, module, *args, **kwargs))

            hooks.enter_context(
                module.register_forward_pre_hook(catch, with_kwargs=True)
            )
        yield calls


@contextmanager
def record_outputs(watched: dict[int, Attention]) -> Iterator[list[Tensor]]:
    """Yield a list that collects the outputs of these layers, in order."""
    outputs: list[Tensor] = []
    with ExitStack() as hooks:
        for module in watched.values():
            hooks.enter_context(
                module.register_forward_hook(lambda _, __, out: outputs.append(out))
            )
        yield outputs


def iter_layers(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    layers: Sequence[int] | None = None,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Iterator[LayerAttention]:
    """Yield one layer after the other, on the model's device, in the order of the pass.

    The model runs block by block, so only the weights of one layer are in memory. It
    stops after the last requested layer.

    Raises:
        ConfigError: the model has no attention, or not such a layer.
    """
    attentions = attention_layers(model)
    indices = resolve_indices(layers, len(attentions), "layers")
    watched = {index: attentions[index] for index in sorted(set(indices))}
    return _iter_layers(model, require_batch(model, images), watched, patch_mask)


def _iter_layers(
    model: VisionModel,
    images: Tensor,
    watched: dict[int, Attention],
    patch_mask: Bool[Tensor, "batch rows columns"] | None,
) -> Iterator[LayerAttention]:
    parts = list(model.modules())
    with torch.no_grad(), eval_mode(parts):
        if patch_mask is not None:
            patch_mask = patch_mask.to(images.device)
        tokens = model.embed(images, patch_mask)
    grid, missing = tokens.grid, set(watched)
    places = get_places(model, tokens)
    takes_part = tokens.mask
    for block in range(model.config.num_blocks):
        shape = tokens.x.shape
        with torch.no_grad(), eval_mode(parts), record_inputs(watched) as calls:
            tokens = model.forward_blocks(tokens, block, block + 1)
        while calls:
            call = calls.pop(0)
            missing.discard(call.index)
            of_image = call.x.shape == shape and places is None
            # No name for the weights, so that the caller holds the only reference.
            yield LayerAttention(
                call.index,
                visible_weights(call, takes_part if of_image else None),
                grid if of_image else call.grid,
                model.config.num_prefix_tokens if of_image else 0,
                patch_mask if of_image else None,
                of_image,
                None if places is None else places.get_layer_members(call.index),
            )
            del call
        if not missing:
            return


@torch.no_grad()
def visible_weights(
    call: AttentionCall, takes_part: Bool[Tensor, "batch tokens"] | None
) -> Float[Tensor, "batch heads tokens tokens"]:
    """Return the weights of a call between all tokens of the image.

    The rows of tokens that do not take part are zero.
    """
    weights = call.attention.attention_weights(
        call.x, call.grid, call.mask, call.merged
    )
    return expand_to_all_tokens(weights, call, takes_part)


def expand_to_all_tokens(
    weights: Float[Tensor, "batch heads left left"],
    call: AttentionCall,
    takes_part: Bool[Tensor, "batch tokens"] | None,
) -> Float[Tensor, "batch heads tokens tokens"]:
    """Expand a matrix of a call's tokens to all tokens of the image."""
    if call.merged is not None:
        weights = expand_weights(weights, call.merged)
    if takes_part is None:
        return weights
    return weights.masked_fill_(~takes_part[:, None, :, None], 0.0)
