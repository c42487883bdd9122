"""Names and shapes that Flax gives to a Vision Transformer's parameters.

Shared by Google's two projects that publish .npz files. They differ in the numbers of
modules, in a prefix, and in the position table's name.
"""

from dataclasses import dataclass, replace
from typing import Any

from vitral.layers import Grid
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts import limits
from vitral.weights.mapping import (
    TensorMapping,
    convolution,
    copy,
    flax_heads,
    flax_out,
    transpose,
)


@dataclass(frozen=True, slots=True)
class Style:
    """Naming scheme of one project."""

    prefix: str
    """Prefix of every name."""
    attention: str
    norm1: str
    norm2: str
    mlp: str
    pos_embed: str


OLD = Style(
    prefix="",
    attention="MultiHeadDotProductAttention_1",
    norm1="LayerNorm_0",
    norm2="LayerNorm_2",
    mlp="MlpBlock_3",
    pos_embed="Transformer/posembed_input/pos_embedding",
)
"""vision_transformer: every published file."""
NEWER = replace(
    OLD,
    attention="MultiHeadDotProductAttention_0",
    norm2="LayerNorm_1",
    mlp="MlpBlock_0",
)
"""vision_transformer with a newer Flax, which numbers modules per class."""
BIG_VISION = replace(NEWER, prefix="params/", pos_embed="pos_embedding")
LIMITS: tuple[limits.Limit, ...] = (
    limits.NO_REGISTER_TOKENS,
    limits.NO_LAYER_SCALE,
    limits.NO_NORM_ON_QK,
    limits.ALL_BIASES,
    limits.ONE_PLAIN_MLP,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.KEY_BIAS,
    limits.NORM_THEN_POOL,
    limits.AT_STEM,
    ("it pools one way only", lambda it: it.global_pool == "token_avg"),
    (
        "the class token is for pooling",
        lambda it: it.class_token and it.global_pool != "token",
    ),
)
"""Models that neither project's code can be."""


def vit_mappings(config: ViTConfig, style: Style) -> list[TensorMapping]:
    """Return the mapping of every tensor of a Vision Transformer."""
    head_dim = config.attention_dim // config.num_heads
    rules = [
        convolution("patch_embed.proj.weight", f"{style.prefix}embedding/kernel"),
        copy("patch_embed.proj.bias", f"{style.prefix}embedding/bias"),
    ]
    if config.class_token:
        rules.append(copy("cls_token", f"{style.prefix}cls"))
    if config.position == "learned_1d":
        rules.append(copy("pos_embed", style.prefix + style.pos_embed))
    for block in range(config.depth):
        rules += _block(block, style, head_dim)
    rules += _norm("norm", f"{style.prefix}Transformer/encoder_norm")
    if config.global_pool == "map":
        rules += _map_head(style, head_dim)
    if config.representation_size:
        rules += _dense("pre_logits.fc", f"{style.prefix}pre_logits")
    if config.num_classes:
        rules += _dense("head", f"{style.prefix}head")
    return rules


def read_vit_fields(opened: LayoutInput, style: Style) -> dict[str, Any]:
    """Infer the fields of ViTConfig from the shapes of a file."""
    file, prefix = opened.file, style.prefix
    rows, columns, chans, width = opened.shape(f"{prefix}embedding/kernel", 4)
    blocks = f"{prefix}Transformer/encoderblock_"
    query = opened.shape(f"{blocks}0/{style.attention}/query/kernel", 3)
    hidden = opened.shape(f"{blocks}0/{style.mlp}/Dense_0/kernel", 2)[1]
    class_token = f"{prefix}cls" in file
    table = prefix + style.pos_embed
    facts: dict[str, Any] = {
        "patch_size": (rows, columns),
        "in_chans": chans,
        "embed_dim": width,
        "depth": opened.count_blocks(rf"{blocks}(\d+)/"),
        "num_heads": query[1],
        "head_dim": 0 if query[1] * query[2] == width else query[2],
        "mlp_dim": hidden,
        "class_token": class_token,
        "global_pool": "token" if class_token else "avg",
        "num_classes": opened.rows(f"{prefix}head/bias", 1),
        "representation_size": opened.rows(f"{prefix}pre_logits/bias", 1),
    }
    if f"{prefix}MAPHead_0/probe" in file:
        facts["global_pool"] = "map"
    if table in file:
        top = style.pos_embed == BIG_VISION.pos_embed
        prefix_rows = 0 if top else int(class_token)
        length = opened.shape(table, 3)[1]
        grid = opened.infer_positions(table, length, (prefix_rows,))
    else:
        facts["position"] = "sincos_2d"
        grid = opened.grid or Grid(14, 14)
        opened.notes.append(
            "no position table in the file: fixed sines and cosines assumed, made for "
            f"{grid.rows} x {grid.columns} patches"
        )
    facts["image_size"] = (grid.rows * rows, grid.columns * columns)
    return facts


def numerics(config: ViTConfig) -> tuple[str, ...]:
    """Return notes on the numbers in which that code differs from the model."""
    notes = []
    if config.act != "gelu_tanh":
        notes.append(
            "the official code computes GELU by tanh, this model does not: logits "
            "will differ slightly there"
        )
    if config.norm_eps != 1e-6:
        notes.append(
            f"the official code's LayerNorm has an epsilon of 1e-6, not "
            f"{config.norm_eps:g}: logits will differ slightly there"
        )
    return tuple(notes)


def _block(index: int, style: Style, head_dim: int) -> list[TensorMapping]:
    ours, theirs = (
        f"blocks.{index}",
        f"{style.prefix}Transformer/encoderblock_{index}",
    )
    attention = f"{theirs}/{style.attention}"
    return [
        *_norm(f"{ours}.norm1", f"{theirs}/{style.norm1}"),
        *_attention(f"{ours}.attn.qkv", attention, head_dim, "query", "key", "value"),
        flax_out(f"{ours}.attn.proj.weight", f"{attention}/out/kernel", head_dim),
        copy(f"{ours}.attn.proj.bias", f"{attention}/out/bias"),
        *_norm(f"{ours}.norm2", f"{theirs}/{style.norm2}"),
        *_mlp(f"{ours}.mlp", f"{theirs}/{style.mlp}"),
    ]


def _map_head(style: Style, head_dim: int) -> list[TensorMapping]:
    theirs = f"{style.prefix}MAPHead_0"
    attention = f"{theirs}/MultiHeadDotProductAttention_0"
    return [
        copy("attn_pool.latent", f"{theirs}/probe"),
        *_attention("attn_pool.q", attention, head_dim, "query"),
        *_attention("attn_pool.kv", attention, head_dim, "key", "value"),
        flax_out("attn_pool.proj.weight", f"{attention}/out/kernel", head_dim),
        copy("attn_pool.proj.bias", f"{attention}/out/bias"),
        *_norm("attn_pool.norm", f"{theirs}/LayerNorm_0"),
        *_mlp("attn_pool.mlp", f"{theirs}/MlpBlock_0"),
    ]


def _attention(
    ours: str, theirs: str, head_dim: int, *parts: str
) -> list[TensorMapping]:
    return [
        flax_heads(
            f"{ours}.{native_part}",
            [f"{theirs}/{part}/{foreign_part}" for part in parts],
            head_dim,
        )
        for native_part, foreign_part in (("weight", "kernel"), ("bias", "bias"))
    ]


def _mlp(ours: str, theirs: str) -> list[TensorMapping]:
    return [
        *_dense(f"{ours}.fc1", f"{theirs}/Dense_0"),
        *_dense(f"{ours}.fc2", f"{theirs}/Dense_1"),
    ]


def _dense(ours: str, theirs: str) -> list[TensorMapping]:
    return [
        transpose(f"{ours}.weight", f"{theirs}/kernel"),
        copy(f"{ours}.bias", f"{theirs}/bias"),
    ]


def _norm(ours: str, theirs: str) -> list[TensorMapping]:
    return [
        copy(f"{ours}.weight", f"{theirs}/scale"),
        copy(f"{ours}.bias", f"{theirs}/bias"),
    ]
