"""Multiply-accumulates of one image in training, by what is learned from it.

What a model costs on whole images it says itself (`config.macs()`); a masked encoder
sees fewer patches, and an objective may have layers of its own.
"""

import math

from vitral.data import Preprocess
from vitral.layers import num_kept
from vitral.layers.patch import patch_grid
from vitral.models import ModelConfig, ViTConfig
from vitral.objectives import MAEConfig, MaskedPatchConfig, ObjectiveConfig
from vitral.objectives.mae import num_visible
from vitral.objectives.masked_patch import num_outputs
from vitral.workflows.config import TrainConfig
from vitral.workflows.train import image_sizes


def count_macs(config: TrainConfig, model: ModelConfig) -> int:
    """Forward, for one image of a training step; the mean over `resolutions`.

    Args:
        model: the settings of the model that the run trains.
    """
    sizes = image_sizes(config, model, Preprocess(image_size=model.image_hw))
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
    kept = num_kept(patches, model.patch_drop_rate)
    saved = _encoder_macs(model, patches + prefix) - _encoder_macs(model, kept + prefix)
    if isinstance(objective, MAEConfig):
        visible = num_visible(grid, objective.mask_ratio)
        saved = _encoder_macs(model, patches + prefix) - _encoder_macs(
            model, visible + prefix
        )
        own = _decoder_macs(model, objective, patches, visible + prefix)
        return model.macs(size) - saved + own
    if isinstance(objective, MaskedPatchConfig):
        corrupted = max(round(objective.corrupted * patches), 1)
        own = corrupted * model.embed_dim * num_outputs(objective, model.patch_hw)
        return model.macs(size) + own
    return model.macs(size) - saved


def _encoder_macs(model: ViTConfig, tokens: int) -> int:
    """All blocks on so many tokens."""
    layers = 3 if model.mlp == "swiglu" else 2
    inner = model.attention_dim
    return model.depth * _block_macs(
        tokens, model.embed_dim, inner, layers * model.embed_dim * model.mlp_dim
    )


def _block_macs(tokens: int, dim: int, inner: int, perceptron: int) -> int:
    """Queries, keys, values and output; their products; the perceptron."""
    return tokens * (4 * dim * inner + perceptron) + 2 * tokens**2 * inner


def _decoder_macs(
    model: ViTConfig, objective: MAEConfig, patches: int, seen: int
) -> int:
    """Of a masked autoencoder: its map in, its blocks on every patch, its map out."""
    dim = objective.decoder_dim
    tokens = patches + model.num_prefix_tokens
    blocks = objective.decoder_depth * _block_macs(tokens, dim, dim, 2 * dim * 4 * dim)
    pixels = math.prod(model.patch_hw) * model.in_chans
    return seen * model.embed_dim * dim + blocks + tokens * dim * pixels
