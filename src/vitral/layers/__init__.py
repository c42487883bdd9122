"""Floor 0: the parts that every Transformer here is made of."""

from vitral.layers.attention import Attention, attention_mask
from vitral.layers.init import lecun_normal_, xavier_uniform_
from vitral.layers.mlp import Activation, Mlp, MlpKind, SwiGLU
from vitral.layers.patch import PatchEmbed, patch_grid
from vitral.layers.pool import AttentionPool, masked_mean
from vitral.layers.position import (
    Grid,
    RelativePosition,
    ResizeMethod,
    learned_2d,
    resize,
    sincos_2d,
)
from vitral.layers.transformer import Block, DropPath, LayerScale, drop_path_rates

__all__ = [
    "Activation",
    "Attention",
    "AttentionPool",
    "Block",
    "DropPath",
    "Grid",
    "LayerScale",
    "Mlp",
    "MlpKind",
    "PatchEmbed",
    "RelativePosition",
    "ResizeMethod",
    "SwiGLU",
    "attention_mask",
    "drop_path_rates",
    "learned_2d",
    "lecun_normal_",
    "masked_mean",
    "patch_grid",
    "resize",
    "sincos_2d",
    "xavier_uniform_",
]
