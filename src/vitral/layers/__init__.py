"""Building blocks of the models."""

from vitral.layers.attention import Attention, attention_mask
from vitral.layers.init import lecun_normal_, xavier_uniform_
from vitral.layers.merging import (
    MergeState,
    expand_weights,
    initial_merge_state,
    merge,
    merge_matrix,
    num_merged,
    token_map,
)
from vitral.layers.mlp import Activation, Mlp, MlpKind, SwiGLU
from vitral.layers.patch import PatchEmbed, patch_grid
from vitral.layers.patch_drop import (
    PatchDropout,
    gather_tokens,
    num_kept,
    scatter_tokens,
)
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
from vitral.layers.relative_bias import RelativeBias, resize_bias
from vitral.layers.rotary import IndexRotaryPosition, RotaryPosition
from vitral.layers.space_time_attention import (
    Along,
    ClipAttention,
    Extent,
    LocalAttention,
    StridedAttention,
    group_tokens,
)
from vitral.layers.transformer import (
    Block,
    DropPath,
    LayerScale,
    NormLayer,
    drop_path_rates,
)

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
    "IndexRotaryPosition",
    "LayerScale",
    "LocalAttention",
    "MergeState",
    "Mlp",
    "MlpKind",
    "NormLayer",
    "PatchDropout",
    "PatchEmbed",
    "RelativeBias",
    "RelativePosition",
    "ResizeMethod",
    "RotaryPosition",
    "StridedAttention",
    "SwiGLU",
    "TimeResize",
    "attention_mask",
    "drop_path_rates",
    "expand_weights",
    "gather_tokens",
    "group_tokens",
    "initial_merge_state",
    "learned_2d",
    "lecun_normal_",
    "masked_mean",
    "merge",
    "merge_matrix",
    "num_kept",
    "num_merged",
    "patch_grid",
    "resize",
    "resize_bias",
    "resize_time",
    "scatter_tokens",
    "sincos_2d",
    "token_map",
    "xavier_uniform_",
]
