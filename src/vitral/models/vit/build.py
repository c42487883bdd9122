"""Build the parts of a Vision Transformer from its settings, with fresh weights."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from vitral.layers import (
    Attention,
    Block,
    IndexRotaryPosition,
    Mlp,
    NormLayer,
    RelativeBias,
    RelativePosition,
    RotaryPosition,
    SwiGLU,
    lecun_normal_,
)
from vitral.models.vit.config import LEARNED_1D, ViTConfig


def attention_settings(config: ViTConfig) -> dict[str, Any]:
    """Return the arguments of `Attention` other than its sizes."""
    return {
        "head_dim": config.head_dim or None,
        "qkv_bias": config.qkv_bias,
        "proj_bias": config.proj_bias,
        "qk_norm_eps": config.norm_eps if config.qk_norm else None,
        "drop": config.drop_rate,
    }


def build_block(config: ViTConfig, drop_path: float) -> Block:
    dim = config.embed_dim
    rotary: RotaryPosition | None = None
    relative: RelativePosition | RelativeBias | None = None
    if config.position == "relative_bias":
        relative = RelativeBias(config.grid, config.num_heads, config.position_resize)
    elif config.position == "relative":
        relative = RelativePosition(
            config.grid,
            config.attention_dim // config.num_heads,
            config.num_prefix_tokens,
        )
    elif config.position == "rotary":
        rotary = RotaryPosition(config.num_prefix_tokens)
    elif config.position in ("rotary_index", "learned_rotary"):
        rotary = IndexRotaryPosition(config.num_prefix_tokens)
    own = {"k_bias": config.k_bias, "relative": relative, "rotary": rotary}
    settings = attention_settings(config) | own
    attention = Attention(dim, config.num_heads, **settings)
    given: dict[str, Any] = {"act": config.act, "drop": config.drop_rate}
    mlp: Mlp | SwiGLU
    if config.mlp == "swiglu":
        given["norm_eps"] = config.norm_eps if config.mlp_norm else None
        given["bias"] = config.norm == "layer"
        mlp = SwiGLU(dim, config.mlp_dim, **given)
    else:
        mlp = Mlp(dim, config.mlp_dim, **given)
    return Block(
        dim,
        attention,
        mlp,
        norm_layer=norm_layer(config),
        norm_eps=config.norm_eps,
        init_values=config.init_values,
        drop_path=drop_path,
    )


def norm_layer(config: ViTConfig) -> NormLayer:
    """Return the class of the norms of the blocks and of the last norm."""
    return nn.LayerNorm if config.norm == "layer" else nn.RMSNorm


def build_position_tables(config: ViTConfig) -> dict[str, nn.Parameter]:
    """Build the learned tables of absolute positions, by their names."""
    dim, prefix, grid = config.embed_dim, config.num_prefix_positions, config.grid
    tables = config.depth if config.position_at == "every_layer" else 1
    shapes: dict[str, tuple[int, ...]] = {}
    if config.position in LEARNED_1D:
        shapes["pos_embed"] = (tables, prefix + math.prod(grid), dim)
    elif config.position == "learned_2d":
        shapes["pos_embed_x"] = (tables, grid.columns, dim // 2)
        shapes["pos_embed_y"] = (tables, grid.rows, dim // 2)
    return {
        name: nn.Parameter(nn.init.normal_(torch.empty(shape), std=0.02))
        for name, shape in shapes.items()
    }


def build_pre_logits(config: ViTConfig) -> nn.Sequential:
    """Build the tanh layer before the head (section 3.1); empty for none."""
    if not config.representation_size:
        return nn.Sequential()
    fc = nn.Linear(config.pooled_dim, config.representation_size)
    lecun_normal_(fc.weight, fan_in=config.pooled_dim)
    nn.init.zeros_(fc.bias)
    return nn.Sequential(OrderedDict[str, nn.Module](fc=fc, act=nn.Tanh()))


def build_head(config: ViTConfig, num_classes: int, blocks: nn.Module) -> nn.Module:
    """Build a head of zero weights, so all classes start equal (section 3.2).

    Args:
        blocks: give the device and the precision.
    """
    if num_classes == 0:
        return nn.Identity()
    width = config.representation_size or config.pooled_dim
    template = next(blocks.parameters())
    head = nn.Linear(width, num_classes, device=template.device, dtype=template.dtype)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, config.head_bias)
    return head
