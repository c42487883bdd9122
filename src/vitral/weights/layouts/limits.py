"""Reasons why a layout cannot hold a model, shared by layouts.

A reason is read after "..., because"; the first that applies is the one reported.
"""

from collections.abc import Callable, Iterable
from typing import Any

from vitral.models import DeiTConfig, ViTConfig

Limit = tuple[str, Callable[[Any], bool]]
"""A reason, and the test of a config to which it applies."""


def first_reason(limits: Iterable[Limit], config: Any) -> str:
    """Return the first reason that applies to a config; empty if none does."""
    return next((reason for reason, applies in limits if applies(config)), "")


LEARNED_AT_STEM: Limit = (
    "its positions are learned, one row a patch, added at the stem",
    lambda it: it.position != "learned_1d" or it.position_at != "stem",
)
CLASS_TOKEN_ROW: Limit = (
    "its models have a class token with a position of its own",
    lambda it: not it.class_token or it.no_embed_class,
)
CLASS_TOKEN_FEATURES: Limit = (
    "its features are those of the class token",
    lambda it: it.global_pool != "token",
)
ROWLESS_REGISTERS: Limit = (
    "its registers have no positions",
    lambda it: it.reg_tokens > 0 and not it.no_embed_reg,
)
NO_REGISTERS: Limit = ("it has no registers", lambda it: it.reg_tokens > 0)
PLAIN_MLP: Limit = ("its perceptrons are plain", lambda it: it.mlp != "plain")
ALL_BIASES: Limit = (
    "its attention has biases everywhere",
    lambda it: not it.qkv_bias or not it.k_bias or not it.proj_bias,
)
PROJ_BIAS: Limit = (
    "it has a bias wherever the attention projects",
    lambda it: not it.proj_bias,
)
NO_MLP_NORM: Limit = (
    "its gated perceptron has no norm inside",
    lambda it: it.mlp_norm,
)
LAYER_NORM: Limit = ("its norms are LayerNorms", lambda it: it.norm != "layer")
NO_QK_NORM: Limit = ("it does not normalise queries and keys", lambda it: it.qk_norm)
NO_LAYER_SCALE: Limit = ("it has no LayerScale", lambda it: it.init_values is not None)
NO_TANH: Limit = ("it has no tanh layer", lambda it: it.representation_size > 0)
NO_TANH_BEFORE_HEAD: Limit = (
    "it has no tanh layer before the head",
    lambda it: it.representation_size > 0,
)
HEADS_WIDTH: Limit = (
    "its heads together are as wide as the model",
    lambda it: it.attention_dim != it.embed_dim,
)
NO_PATCH_NORM: Limit = ("its patches have no norms", lambda it: it.patch_norm)
KEY_BIAS: Limit = (
    "its keys have a bias where its queries have",
    lambda it: it.qkv_bias and not it.k_bias,
)
NO_NORM_PRE: Limit = (
    "its tokens have no norm before the first block",
    lambda it: it.norm_pre,
)
NORM_BEFORE_POOL: Limit = (
    "its final norm comes before pooling",
    lambda it: it.norm_after_pool,
)
SQUARE_PATCHES: Limit = (
    "its patches are square",
    lambda it: it.patch_hw[0] != it.patch_hw[1],
)
THREE_CHANNELS: Limit = ("its images have three channels", lambda it: it.in_chans != 3)
VIT_ONLY: Limit = (
    "it has no such family of models",
    lambda it: type(it) is not ViTConfig,
)
SQUARE_TABLES: Limit = (
    "its position tables are those of square grids",
    lambda it: it.grid.rows != it.grid.columns,
)
NO_REGISTER_TOKENS: Limit = ("it has no register tokens", NO_REGISTERS[1])
NO_NORM_ON_QK: Limit = ("it has no norm on queries and keys", lambda it: it.qk_norm)
ONE_PLAIN_MLP: Limit = ("its perceptron is the plain one", PLAIN_MLP[1])
NORM_THEN_POOL: Limit = ("it normalises before it pools", NORM_BEFORE_POOL[1])
AT_STEM: Limit = (
    "it adds its positions at the stem",
    lambda it: it.position_at != "stem",
)
VIT_OR_DEIT: Limit = (
    "it has no such family of models",
    lambda it: type(it) not in (ViTConfig, DeiTConfig),
)
