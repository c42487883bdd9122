"""Attention weights, exactly as the model uses them (arXiv 2010.11929, appendix A).

    softmax(q k^T / sqrt(head_dim) + bias)

Rows are queries. Tokens are in the model's order: class token, other prefix tokens,
patches row by row. All weights of a network are large: 12 layers of 12 heads at 577
tokens are 192 MB per image in float32. `iter_attention` keeps one layer in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import (
    LayerAttention,
    attention_layers,
    embed_only,
    eval_mode,
    iter_layers,
    require_batch,
    resolve_indices,
)
from vitral.inspection.clips import (
    AttentionStep,
    average_copies,
    clip_places,
    initial_row,
)
from vitral.models import VisionModel
from vitral.models.timesformer import TokenIndices


def attention(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "sequences layers heads tokens tokens"]:
    """Return the attention weights of `images`, on the CPU, in the model's precision.

    Sequences are the images; only a layer that attends within patches or along time
    has more of them.

    Args:
        images: preprocessed, of any size that the model accepts.
        layers: indices in the order of the result; negative ones count from the last.
            None: all. In a TNT even layers are inner, odd ones outer.
        heads: the same for the heads of each layer.
        patch_mask: True where a patch takes part; the rows and columns of the others
            are zero. None: all take part.

    Raises:
        ConfigError: the model has no attention, not such a layer or head, or layers
            of different shapes were asked for together.
    """
    indices = resolve_indices(layers, len(attention_layers(model)), "layers")
    result: Tensor | None = None
    for layer in iter_layers(model, images, layers=indices, patch_mask=patch_mask):
        weights = layer.weights
        if heads is not None:
            weights = weights[:, resolve_indices(heads, weights.shape[1], "heads")]
        if result is None:
            batch, *rest = weights.shape
            result = weights.new_empty((batch, len(indices), *rest), device="cpu")
        if weights.shape != result[:, 0].shape:
            raise ConfigError(
                f"The layers asked for differ in shape: layer {layer.index} has "
                f"weights {list(weights.shape)}, one before it "
                f"{list(result[:, 0].shape)}. Name layers of one kind in `layers`, or "
                "use iter_attention."
            )
        for position, index in enumerate(indices):
            if index == layer.index:
                result[:, position] = weights
    assert result is not None
    return result


def iter_attention(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Iterator[LayerAttention]:
    """Yield the weights of one layer after the other, on the CPU.

    The model runs block by block, so at most one layer is in memory if the caller keeps
    none.

    Raises:
        ConfigError: the model has no attention.
    """
    # `map` keeps no reference to its last item, as a loop variable would.
    return map(_to_cpu, iter_layers(model, images, patch_mask=patch_mask))


def _to_cpu(layer: LayerAttention) -> LayerAttention:
    return replace(layer, weights=layer.weights.cpu())


def class_attention(
    model: VisionModel,
    images: Float[Tensor, "batch *image"],
    layer: int = -1,
    *,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch heads *frames rows columns"]:
    """Return the weight of the class token of one layer for each patch.

    The weights of an image's patches sum to less than one; the rest is on the prefix
    tokens. For a clip it is the mean over the class token's copies, or over the class
    tokens of all frames.

    Raises:
        ConfigError: the model has no attention, no class token, or not such a layer;
            or the class token takes no part in it.
    """
    if embed_only(model, images).cls is None:
        raise ConfigError(
            "The model has no class token, so there is no class_attention: use "
            "rollout, or the rows of `attention` that belong to a patch."
        )
    (captured,) = iter_layers(model, images, layers=[layer], patch_mask=patch_mask)
    if captured.members is not None:
        places = clip_places(model, images)
        return _class_token_rows(captured, captured.members, places).cpu()
    require_global(captured)
    rows = captured.weights[:, :, 0, captured.num_prefix_tokens :]
    return rows.unflatten(-1, tuple(captured.grid)).cpu()


def _class_token_rows(
    layer: LayerAttention, members: Int[Tensor, "groups line"], places: TokenIndices
) -> Float[Tensor, "batch heads frames rows columns"]:
    """Return the mean of the rows of the class token's copies, or the class tokens."""
    if not torch.isin(places.class_tokens, members).all():
        raise ConfigError(
            f"The class token takes no part in layer {layer.index}, an attention along "
            "time or near by: name the last layer of a block."
        )
    heads = layer.weights.shape[1]
    by_head = (
        layer.weights.unflatten(0, (-1, len(members))).transpose(1, 2).flatten(0, 1)
    )
    step = average_copies(AttentionStep(by_head, members))
    row = initial_row(places, by_head, by_class_token=True)
    return step.left_multiply(row)[:, 0, places.patches].unflatten(0, (-1, heads))


def require_global(layer: LayerAttention) -> None:
    """Raise ConfigError for a layer that attends within a patch or along time."""
    if not layer.is_global:
        raise ConfigError(
            f"Layer {layer.index} attends to {layer.weights.shape[-1]} tokens that are "
            "not those of the whole image: name another layer."
        )


def word_attention(
    model: VisionModel, images: Float[Tensor, "batch *image"], layer: int = -1
) -> Float[Tensor, "batch heads word_rows word_columns"]:
    """Return the mean weight that the words of a patch give to each (arXiv 2103.00112).

    The result is on the CPU, in the layout of the words in the image. The values of a
    patch sum to one, so uniform attention is 1 / words.

    Args:
        layer: index of the inner layer, one a block; negative ones count from the last.

    Raises:
        ConfigError: the model has no words, or not such a layer.
    """
    with torch.no_grad(), eval_mode(model.modules()):
        tokens = model.embed(require_batch(model, images)[:1])
    if tokens.words is None:
        raise ConfigError(
            f"A {type(model).__name__} has no words within its patches, so there is "
            "no word_attention, which is for a TNT: see class_attention."
        )
    index = resolve_indices([layer], model.config.num_blocks, "inner layers")[0]
    layers = iter_layers(model, images)
    inner_layers = (layer for layer in layers if not layer.is_global)
    inner = next(islice(inner_layers, index, None))
    weights = inner.weights.mean(dim=2)
    sizes = (len(images), tokens.rows, tokens.columns)
    grids = weights.unflatten(-1, tuple(inner.grid)).unflatten(0, sizes)
    # [batch, rows, columns, heads, down, along] to the words' rows and columns.
    return grids.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3).cpu()
