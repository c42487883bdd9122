"""Inner attention of a TNT, between the words within each patch (arXiv 2103.00112)."""

from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import (
    eval_mode,
    iter_layers,
    require_batch,
    resolve_indices,
)
from vitral.models import VisionModel


def word_attention(
    model: VisionModel, images: Float[Tensor, "batch *image"], layer: int = -1
) -> Float[Tensor, "batch heads word_rows word_columns"]:
    """Return the mean weight that the words of a patch give to each of its words.

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
