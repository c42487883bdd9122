"""State dicts of lucidrains' vit-pytorch: its `ViT`, in current and older versions.

Patches are vectors in the order row, column, channel, with a LayerNorm before and after
their projection. q, k and v have no bias, and the heads' total width may differ from
the model's.
"""

import math
from typing import Any

import torch

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.infer_config import (
    count_blocks,
    infer_positions,
    require_shape,
    rows_or_zero,
)
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


def detect(opened: LayoutInput) -> bool:
    """Return whether the blocks have this project's names and positions are learned."""
    return _body(opened) is not None and "pos_embedding" in opened.file


def read(opened: LayoutInput) -> WeightsSource:
    notes = list(opened.notes)
    facts = read_shared_fields(opened, notes)
    file = opened.file
    table = file.shape("pos_embedding")
    has_class = "cls_token" in file and math.prod(file.shape("cls_token")) > 0
    patch = facts["patch_size"]
    grid = infer_positions(
        opened, "pos_embedding", table[-2], (int(has_class),), notes=notes
    ).grid
    config = ViTConfig(
        **facts,
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        num_classes=rows_or_zero(file, _head(opened) + ".bias", 1),
        class_token=has_class,
        global_pool="token" if has_class else "avg",
        norm_after_pool="transformer.norm.weight" not in file,
        proj_bias=True,
    )
    empty = {} if has_class else {"cls_token": "it has no rows: the mean is pooled"}
    return WeightsSource(
        layout=LAYOUT.title,
        file=file,
        config=config,
        mappings=tuple(_mappings(config, _body(opened) or "", _head(opened))),
        preprocess=default_preprocess(config, notes),
        dropped={name: why for name, why in empty.items() if name in file},
        notes=tuple(notes),
    )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    assert isinstance(config, ViTConfig)
    return _mappings(config, "", "mlp_head")


def unsupported_reason(config: ModelConfig) -> str:
    if reason := shared_unsupported_reason(config):
        return reason
    assert isinstance(config, ViTConfig)
    reasons = {
        "it learns one position a token": config.position != "learned_1d",
        "its class token has a position": config.no_embed_class and config.class_token,
        "it pools the class token, or has none": (
            config.global_pool != ("token" if config.class_token else "avg")
        ),
        "its output projection has a bias": not config.proj_bias,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def make_output(spec: ModelSpec) -> LayoutOutput:
    assert isinstance(spec.config, ViTConfig)
    none = {} if spec.config.class_token else {"cls_token": _no_rows(spec.config)}
    return LayoutOutput(new=none, notes=numerics(spec.config))


def read_shared_fields(opened: LayoutInput, notes: list[str]) -> dict[str, Any]:
    """Infer the fields that `ViT` and `SimpleViT` share from the shapes."""
    file, body = opened.file, _body(opened)
    assert body is not None
    block = "transformer.layers.0"
    qkv, width = require_shape(file, f"{block}.0.{body}to_qkv.weight", 2)
    hidden = require_shape(
        file,
        f"{block}.1.{body}net.1.weight"
        if not body
        else f"{block}.1.{body}net.0.weight",
        2,
    )[0]
    normed = len(file.shape("to_patch_embedding.1.weight")) == 1
    pixels = require_shape(file, f"to_patch_embedding.{2 if normed else 1}.weight", 2)[
        1
    ]
    side = math.isqrt(pixels // 3)
    if 3 * side * side != pixels:
        raise WeightsError(
            f"{opened.path}: its patches have {pixels} values, which are not square "
            "patches of three colours; vitral cannot know their height and width."
        )
    notes.append(f"square patches of {side} pixels and three colours assumed")
    inner = qkv // 3
    heads = opened.num_heads
    if heads is None:
        if inner % HEAD_DIM:
            raise WeightsError(
                f"{opened.path}: the number of heads, together {inner} channels wide, "
                "cannot be read from its tensors. Give `num_heads`."
            )
        heads = inner // HEAD_DIM
        notes.append(f"{heads} heads of {HEAD_DIM} channels assumed: it is the default")
    return {
        "patch_size": (side, side),
        "embed_dim": width,
        "depth": count_blocks(file, r"transformer\.layers\.(\d+)\."),
        "num_heads": heads,
        "head_dim": 0 if inner == width else inner // heads,
        "mlp_dim": hidden,
        "qkv_bias": False,
        "patch_norm": normed,
        "act": "gelu",
        "norm_eps": EPS,
        "position_resize": "bicubic",
    }


def shared_unsupported_reason(config: ModelConfig) -> str:
    """Return why neither `ViT` nor `SimpleViT` can be this model."""
    if type(config) is not ViTConfig:
        return "it has no such family of models in this layout"
    reasons = {
        "its patches have norms": not config.patch_norm,
        "its queries, keys and values have no bias": config.qkv_bias,
        "it has no register tokens": config.reg_tokens > 0,
        "it has no LayerScale": config.init_values is not None,
        "it has no norm on queries and keys": config.qk_norm,
        "its perceptron is the plain one": config.mlp != "plain",
        "it normalises before it pools": config.norm_after_pool,
        "it adds its positions at the stem": config.position_at != "stem",
        "it has no tanh layer before the head": config.representation_size > 0,
        "it takes square patches of three colours": (
            config.patch_hw[0] != config.patch_hw[1] or config.in_chans != 3
        ),
        "it has a head": config.num_classes == 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


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
        rules.append(copy(f"{ours}.attn.qkv.weight", f"{attention}to_qkv.weight"))
        rules.append(copy(f"{ours}.attn.proj.weight", f"{attention}{out}.weight"))
        if config.proj_bias:
            rules.append(copy(f"{ours}.attn.proj.bias", f"{attention}{out}.bias"))
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


def _head(opened: LayoutInput) -> str:
    return "mlp_head.1" if "mlp_head.1.weight" in opened.file else "mlp_head"


def _no_rows(config: ViTConfig) -> torch.Tensor:
    return torch.empty(0, config.embed_dim)


LAYOUT = Layout(
    name="vit_pytorch",
    title="vit-pytorch",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
