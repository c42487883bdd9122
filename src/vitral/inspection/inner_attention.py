"""Where a TNT looks within each patch: its inner attention (arXiv 2103.00112)."""

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
    """How much each word is looked at by the words of its own patch, on the CPU.

    The mean over the patch's words of their weights for it, laid out as the words lie
    in the image: those of a patch sum to one, and equal attention is 1 / words.

    Args:
        layer: which inner layer, one a block; negative ones count from the last.

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
    inner = (found for found in iter_layers(model, images) if not found.is_global)
    found = next(islice(inner, index, None))
    seen = found.weights.mean(dim=2)
    sizes = (len(images), tokens.rows, tokens.columns)
    placed = seen.unflatten(-1, tuple(found.grid)).unflatten(0, sizes)
    # [batch, rows, columns, heads, down, along] to each word in its own place.
    return placed.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3).cpu()
