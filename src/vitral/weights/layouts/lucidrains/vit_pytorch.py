"""State dicts of lucidrains' vit-pytorch: its `ViT`, in current and older versions.

Patches are vectors in the order row, column, channel, with a LayerNorm before and after
their projection. q, k and v have no bias, and the heads' total width may differ from
the model's.
"""

import math
from functools import partial
from typing import Any

import torch

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import (
    TensorMapping,
    copy,
    copy_layer,
    flat_patches,
    reshape,
)

EPS = 1e-5
"""torch's default epsilon of a LayerNorm, which the project does not change."""
HEAD_DIM = 64
"""The project's default, where the file cannot tell."""
QKV = "transformer.layers.0.0.to_qkv.weight"
SHARED_LIMITS: tuple[limits.Limit, ...] = (
    (
        "it has no such family of models in this layout",
        lambda it: type(it) is not ViTConfig,
    ),
    ("its patches have norms", lambda it: not it.patch_norm),
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.KEY_BIAS,
    ("its queries, keys and values have no bias", lambda it: it.qkv_bias),
    limits.NO_REGISTER_TOKENS,
    limits.NO_LAYER_SCALE,
    limits.NO_NORM_ON_QK,
    limits.ONE_PLAIN_MLP,
    limits.NORM_THEN_POOL,
    limits.AT_STEM,
    limits.NO_TANH_BEFORE_HEAD,
    (
        "it takes square patches of three colours",
        lambda it: it.patch_hw[0] != it.patch_hw[1] or it.in_chans != 3,
    ),
    ("it has a head", lambda it: it.num_classes == 0),
)
"""Models that neither `ViT` nor `SimpleViT` can be."""
LIMITS: tuple[limits.Limit, ...] = (
    *SHARED_LIMITS,
    ("it learns one position a token", lambda it: it.position != "learned_1d"),
    ("its class token has a position", lambda it: it.no_embed_class and it.class_token),
    (
        "it pools the class token, or has none",
        lambda it: it.global_pool != ("token" if it.class_token else "avg"),
    ),
    ("its output projection has a bias", lambda it: not it.proj_bias),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether the blocks have this project's names and positions are learned."""
    return _body(opened) is not None and "pos_embedding" in opened.file


def read(opened: LayoutInput) -> WeightsSource:
    facts = read_shared_fields(opened)
    file = opened.file
    rows = file.shape("pos_embedding")[-2]
    has_class = "cls_token" in file and math.prod(file.shape("cls_token")) > 0
    patch = facts["patch_size"]
    grid = opened.infer_positions("pos_embedding", rows, (int(has_class),))
    head = "mlp_head.1" if "mlp_head.1.weight" in file else "mlp_head"
    config = ViTConfig(
        **facts,
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        num_classes=opened.rows(f"{head}.bias", 1),
        class_token=has_class,
        global_pool="token" if has_class else "avg",
        norm_after_pool="transformer.norm.weight" not in file,
        proj_bias=True,
    )
    return opened.source(
        LAYOUT.title,
        config,
        _mappings(config, _body(opened) or "", head),
        default_preprocess(config, opened.notes),
        drop={r"cls_token$": "it has no rows: the mean is pooled"},
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    return _mappings(config, "", "mlp_head")


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    config = spec.config
    new = {} if config.class_token else {"cls_token": torch.empty(0, config.embed_dim)}
    return LayoutOutput(new=new, notes=numerics(config))


def read_shared_fields(opened: LayoutInput) -> dict[str, Any]:
    """Infer the fields that `ViT` and `SimpleViT` share from the shapes."""
    file, body = opened.file, _body(opened)
    assert body is not None
    block = "transformer.layers.0"
    qkv, width = opened.shape(f"{block}.0.{body}to_qkv.weight", 2)
    first = 0 if body else 1
    hidden = opened.shape(f"{block}.1.{body}net.{first}.weight", 2)[0]
    normed = len(file.shape("to_patch_embedding.1.weight")) == 1
    layer = 2 if normed else 1
    pixels = opened.shape(f"to_patch_embedding.{layer}.weight", 2)[1]
    side = math.isqrt(pixels // 3)
    if 3 * side * side != pixels:
        raise WeightsError(
            f"{opened.path}: its patches have {pixels} values, which are not square "
            "patches of three colours; vitral cannot know their height and width."
        )
    opened.notes.append(f"square patches of {side} pixels and three colours assumed")
    inner = qkv // 3
    heads = opened.num_heads
    if heads is None:
        if inner % HEAD_DIM:
            raise WeightsError(
                f"{opened.path}: the number of heads, together {inner} channels wide, "
                "cannot be read from its tensors. Give `num_heads`."
            )
        heads = inner // HEAD_DIM
        opened.notes.append(
            f"{heads} heads of {HEAD_DIM} channels assumed: it is the default"
        )
    return {
        "patch_size": (side, side),
        "embed_dim": width,
        "depth": opened.count_blocks(r"transformer\.layers\.(\d+)\."),
        "num_heads": heads,
        "head_dim": 0 if inner == width else inner // heads,
        "mlp_dim": hidden,
        "qkv_bias": False,
        "patch_norm": normed,
        "act": "gelu",
        "norm_eps": EPS,
        "position_resize": "bicubic",
    }


def block_mappings(
    config: ViTConfig, body: str, out: str, second: str
) -> list[TensorMapping]:
    """Return the mappings of the stem, the blocks and the final norm.

    Args:
        body: name part between a norm and its layer in older versions.
        out: name of the output projection.
        second: name of the MLP's second layer.
    """
    chans, patch = config.in_chans, config.patch_hw
    layer = 2 if config.patch_norm else 1
    stem = "to_patch_embedding"
    rules = [
        flat_patches("patch_embed.proj.weight", f"{stem}.{layer}.weight", patch, chans),
        copy("patch_embed.proj.bias", f"{stem}.{layer}.bias"),
    ]
    if config.patch_norm:
        for part in ("weight", "bias"):
            ours = f"patch_embed.pixel_norm.{part}"
            rules.append(flat_patches(ours, f"{stem}.1.{part}", patch, chans))
        rules += copy_layer("patch_embed.norm", f"{stem}.3")
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"transformer.layers.{index}"
        attention, mlp = f"{theirs}.0.{body}", f"{theirs}.1.{body}net"
        rules += copy_layer(f"{ours}.norm1", f"{theirs}.0.norm")
        rules += copy_layer(f"{ours}.attn.qkv", f"{attention}to_qkv", bias=False)
        out_layer = f"{attention}{out}"
        rules += copy_layer(f"{ours}.attn.proj", out_layer, bias=config.proj_bias)
        if body:
            rules += copy_layer(f"{ours}.norm2", f"{theirs}.1.norm")
            first, second = "0", "3"
        else:
            rules += copy_layer(f"{ours}.norm2", f"{mlp}.0")
            first = "1"
        rules += copy_layer(f"{ours}.mlp.fc1", f"{mlp}.{first}")
        rules += copy_layer(f"{ours}.mlp.fc2", f"{mlp}.{second}")
    return rules


def default_preprocess(config: ViTConfig, notes: list[str]) -> Preprocess:
    """Return the official ViT's pre-processing, with a note: the project has none."""
    notes.append(
        "pixel mean and deviation of 0.5 assumed, as for the official ViT: vit-pytorch "
        "prescribes none"
    )
    return Preprocess(image_size=config.image_hw, antialias=True)


def numerics(config: ViTConfig) -> tuple[str, ...]:
    """Return notes on the numbers in which that code differs from the model."""
    notes = []
    if config.norm_eps != EPS:
        notes.append(
            f"vit-pytorch's LayerNorm has an epsilon of {EPS:g}, this model "
            f"{config.norm_eps:g}: logits will differ slightly there"
        )
    if config.act != "gelu":
        notes.append(
            "vit-pytorch computes GELU exactly, this model by tanh: logits will "
            "differ slightly there"
        )
    return tuple(notes)


def _mappings(config: ViTConfig, body: str, head: str) -> list[TensorMapping]:
    dim = config.embed_dim
    rows = config.num_prefix_positions + math.prod(config.grid)
    rules = block_mappings(config, body, "to_out.0", "4")
    if config.class_token:
        rules.append(
            reshape("cls_token", "cls_token", (1, 1, dim), (1, dim), (1, 1, dim))
        )
    shapes = ((1, rows, dim), (rows, dim), (1, rows, dim))
    rules.append(reshape("pos_embed", "pos_embedding", *shapes))
    if config.norm_after_pool:
        rules += copy_layer("fc_norm", "mlp_head.0")
    else:
        rules += copy_layer("norm", "transformer.norm")
    return rules + copy_layer("head", head) if config.num_classes else rules


def _body(opened: LayoutInput) -> str | None:
    for body in ("", "fn."):
        if f"transformer.layers.0.0.{body}to_qkv.weight" in opened.file:
            return body
    return None


LAYOUT = Layout(
    name="vit_pytorch",
    title="vit-pytorch",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    same_names="`pool='mean'` of versions 0.14 to 1.7.4, which is global_pool=avg_all, "
    "and its ats_vit, which drops tokens",
    class_token_row="with",
)
