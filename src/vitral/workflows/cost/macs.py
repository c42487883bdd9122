"""Multiply-accumulates of one training image, by objective.

`config.macs()` counts a model on all patches; a masked encoder takes fewer patches, and
an objective may add layers.
"""

import math

from vitral.data import Preprocess
from vitral.layers import num_kept
from vitral.layers.patch import patch_grid
from vitral.models import ModelConfig, ViTConfig
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.representation import MAEConfig, MaskedPatchConfig
from vitral.tasks.representation.mae import num_visible
from vitral.tasks.representation.masked_patch import num_outputs
from vitral.workflows.config import TrainConfig
from vitral.workflows.train import image_sizes


def count_macs(config: TrainConfig, model: ModelConfig) -> int:
    """Count the forward pass of one training image; the mean over `resolutions`.

    Args:
        model: settings of the trained model.
    """
    preprocess = Preprocess(image_size=model.image_hw)
    sizes = image_sizes(config.resolutions, model, preprocess)
    counts = [
        _count_at_size(model, config.objective, (s.height, s.width)) for s in sizes
    ]
    return round(sum(counts) / len(counts))


def _count_at_size(
    model: ModelConfig, objective: ObjectiveConfig, size: tuple[int, int]
) -> int:
    if not isinstance(model, ViTConfig):
        return model.macs(size)
    grid = patch_grid(size, model.patch_hw)
    patches, prefix = math.prod(grid), model.num_prefix_tokens
    remaining = num_kept(patches, model.patch_drop_rate)
    saved = _encoder_macs(model, patches + prefix) - _encoder_macs(
        model, remaining + prefix
    )
    if isinstance(objective, MAEConfig):
        visible = num_visible(grid, objective.mask_ratio)
        saved = _encoder_macs(model, patches + prefix) - _encoder_macs(
            model, visible + prefix
        )
        decoder = _decoder_macs(model, objective, patches, visible + prefix)
        return model.macs(size) - saved + decoder
    if isinstance(objective, MaskedPatchConfig):
        corrupted = max(round(objective.corrupted * patches), 1)
        head = corrupted * model.embed_dim * num_outputs(objective, model.patch_hw)
        return model.macs(size) + head
    return model.macs(size) - saved


def _encoder_macs(model: ViTConfig, tokens: int) -> int:
    """Count all blocks on `tokens` tokens."""
    layers = 3 if model.mlp == "swiglu" else 2
    inner = model.attention_dim
    return model.depth * _block_macs(
        tokens, model.embed_dim, inner, layers * model.embed_dim * model.mlp_dim
    )


def _block_macs(tokens: int, dim: int, inner: int, mlp: int) -> int:
    """Count the four projections, the attention products and the MLP of a block."""
    return tokens * (4 * dim * inner + mlp) + 2 * tokens**2 * inner


def _decoder_macs(
    model: ViTConfig, objective: MAEConfig, patches: int, visible: int
) -> int:
    """Count an MAE decoder: input map, blocks on all patches, output map."""
    dim = objective.decoder_dim
    tokens = patches + model.num_prefix_tokens
    blocks = objective.decoder_depth * _block_macs(tokens, dim, dim, 2 * dim * 4 * dim)
    pixels = math.prod(model.patch_hw) * model.in_chans
    return visible * model.embed_dim * dim + blocks + tokens * dim * pixels
