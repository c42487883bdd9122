"""Floor 0: the parts that every Transformer here is made of."""

from vitral.layers.attention import Attention, attention_mask
from vitral.layers.init import lecun_normal_, xavier_uniform_
from vitral.layers.merging import (
    Merged,
    in_image,
    members,
    merge,
    num_merged,
    spread,
    unmerged,
)
from vitral.layers.mlp import Activation, Mlp, MlpKind, SwiGLU
from vitral.layers.patch import PatchEmbed, patch_grid
from vitral.layers.patch_drop import PatchDropout, num_kept, put_back, rows_of
from vitral.layers.pool import AttentionPool, masked_mean
from vitral.layers.position import (
    Grid,
    RelativePosition,
    ResizeMethod,
    TimeResize,
    learned_2d,
    resize,
    resize_time,
    sincos_2d,
)
from vitral.layers.space_time_attention import (
    Along,
    ClipAttention,
    Extent,
    LocalAttention,
    StridedAttention,
    grouped,
)
from vitral.layers.transformer import Block, DropPath, LayerScale, drop_path_rates

__all__ = [
    "Activation",
    "Along",
    "Attention",
    "AttentionPool",
    "Block",
    "ClipAttention",
    "DropPath",
    "Extent",
    "Grid",
    "LayerScale",
    "LocalAttention",
    "Merged",
    "Mlp",
    "MlpKind",
    "PatchDropout",
    "PatchEmbed",
    "RelativePosition",
    "ResizeMethod",
    "StridedAttention",
    "SwiGLU",
    "TimeResize",
    "attention_mask",
    "drop_path_rates",
    "grouped",
    "in_image",
    "learned_2d",
    "lecun_normal_",
    "masked_mean",
    "members",
    "merge",
    "num_kept",
    "num_merged",
    "patch_grid",
    "put_back",
    "resize",
    "resize_time",
    "rows_of",
    "sincos_2d",
    "spread",
    "unmerged",
    "xavier_uniform_",
]
