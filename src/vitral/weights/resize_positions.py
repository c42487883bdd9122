"""Resize the tables of positions of a file for the grid of another image size."""

import math

import torch
from torch import Tensor

from vitral.errors import WeightsError
from vitral.layers import resize, resize_bias
from vitral.models import ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.ledger import LedgerLine

BIAS_TABLE = ".attn.relative.table"


def resize_pos_embed(
    table: Tensor, source: WeightsSource, config: ModelConfig, lines: list[LedgerLine]
) -> Tensor:
    """Return the table of learned positions for the grid of `config`."""
    old = source.config
    assert isinstance(old, ViTConfig)
    assert isinstance(config, ViTConfig)
    prefix = old.num_prefix_positions
    same_rows = prefix == config.num_prefix_positions
    fits = table.shape[1:] == (prefix + math.prod(old.grid), config.embed_dim)
    if not (same_rows and fits and old.grid != config.grid):
        raise WeightsError(
            f"{source.path}: tensor pos_embed has shape {tuple(table.shape)}, but "
            f"the model needs {config.num_prefix_positions} + "
            f"{math.prod(config.grid)} rows of {config.embed_dim}. The setting that "
            "decides this shape was changed; leave it as the weights have it."
        )
    rows = resize(table[:, prefix:], old.grid, config.grid, config.position_resize)
    lines.append(LedgerLine("pos_embed", "resized", _detail(old, config)))
    return torch.cat([table[:, :prefix], rows], dim=1)


def is_bias_table(name: str, config: ModelConfig) -> bool:
    """Return whether a tensor is a table of offsets with a bias of each head."""
    biased = isinstance(config, ViTConfig) and config.position == "relative_bias"
    return biased and name.endswith(BIAS_TABLE)


def resize_bias_table(
    name: str,
    table: Tensor,
    source: WeightsSource,
    config: ModelConfig,
    lines: list[LedgerLine],
) -> Tensor:
    """Return the table of offsets for the grid of `config`."""
    old = source.config
    assert isinstance(old, ViTConfig)
    assert isinstance(config, ViTConfig)
    if table.shape[1] != config.num_heads or old.grid == config.grid:
        raise WeightsError(
            f"{source.path}: tensor {name} has shape {tuple(table.shape)}, but the "
            f"model has {config.num_heads} heads. The setting that decides this shape "
            "was changed; leave it as the weights have it."
        )
    lines.append(LedgerLine(name, "resized", _detail(old, config)))
    return resize_bias(table, old.grid, config.grid, config.position_resize)


def _detail(old: ViTConfig, new: ViTConfig) -> str:
    before, after = (f"{it.rows} x {it.columns}" for it in (old.grid, new.grid))
    return f"{before} -> {after} patches, {new.position_resize}"
