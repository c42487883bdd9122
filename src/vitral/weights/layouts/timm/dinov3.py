"""DINOv3 in timm's names, those of its Eva: read alone.

timm's default pools the mean of the patches; the authors take the class token.
"""

import re
from functools import partial
from typing import Any

from vitral.data import Preprocess
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.shared import dinov3
from vitral.weights.layouts.timm import settings
from vitral.weights.layouts.timm.layout import read_preprocess
from vitral.weights.mapping import (
    TensorMapping,
    concat,
    concat_without_key,
    copy,
    copy_layer,
)
from vitral.weights.numerics import differences, imagenet_crop

NAME = re.compile(
    r"vit_(small|small_plus|base|large|huge_plus|7b)_patch16_dinov3(_qkvb)?"
)
HEADS = {
    "small": 6,
    "small_plus": 6,
    "base": 12,
    "large": 16,
    "huge_plus": 20,
    "7b": 32,
}
ARGUMENTS: dict[str, json_fields.Kind] = {
    **settings.SHARED,
    "img_size": json_fields.optional(json_fields.SIDES),
    "embed_dim": json_fields.COUNT,
    "depth": json_fields.COUNT,
    "num_heads": json_fields.COUNT,
    "global_pool": settings.one_of("token", "avg"),
    "dynamic_img_size": json_fields.FLAG,
}

LIMITS: tuple[limits.Limit, ...] = (
    *dinov3.LIMITS,
    ("its keys have no bias", lambda it: it.qkv_bias),
    (
        "it pools one token or the mean",
        lambda it: it.global_pool not in ("token", "avg"),
    ),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and config.json names no other model."""
    file = opened.file
    name = opened.config_json.get("architecture")
    known = name is None or (isinstance(name, str) and NAME.fullmatch(_bare(name)))
    own = ("reg_token", "blocks.0.gamma_1", "blocks.0.attn.qkv.weight")
    others = ("pos_embed", "norm_pre.weight", "fc_norm.weight", "rope.freqs")
    return (
        bool(known)
        and all(it in file for it in own)
        and not any(it in file for it in others)
    )


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that the tensors and config.json describe."""
    settings.check_config(opened)
    config = _config(opened)
    biased = "blocks.0.attn.q_bias" in opened.file
    if biased:
        opened.notes.append("the keys have no bias in the file: zero here, and learned")
    return opened.source(
        LAYOUT.title,
        config,
        mappings(config),
        _preprocess(opened, config),
        drop=dinov3.DROPPED,
        classes=settings.read_labels(opened, config.num_classes),
    )


def _config(opened: LayoutInput) -> ViTConfig:
    file = opened.file
    given = settings.read_arguments(opened, ARGUMENTS)
    width, chans, *patch = opened.shape("patch_embed.proj.weight", 4)
    depth = opened.count_blocks(r"blocks\.(\d+)\.")
    gate = "blocks.0.mlp.fc1_g.weight"
    mlp_dim = opened.shape("blocks.0.mlp.fc2.weight", 2)[1]
    classes = opened.rows("head.bias", 1)
    actual = {"embed_dim": width, "depth": depth, "in_chans": chans}
    pairs: dict[str, tuple[Any, Any]] = {
        f"model_args.{name}": (given.get(name), value) for name, value in actual.items()
    }
    pairs["num_classes"] = (opened.config_json.get("num_classes"), classes)
    json_fields.check_agreement(opened.path.with_name(settings.CONFIG), pairs)
    match = NAME.fullmatch(_bare(str(opened.config_json.get("architecture", ""))))
    named = HEADS[match[1]] if match else None
    heads = opened.choose_num_heads(given.get("num_heads") or named)
    size = given.get("img_size") or settings.read_pretrained(opened).get("input_size")
    sides = [14 * side for side in patch] if size is None else size
    height, width_px = (sides, sides) if isinstance(sides, int) else sides[-2:]
    if opened.grid is not None:
        height, width_px = (n * p for n, p in zip(opened.grid, patch, strict=True))
    pool: Any = given.get("global_pool") or "token"
    if not opened.config_json:
        opened.notes.append(
            "the class token is pooled, as the authors do; timm's default is the mean"
        )
    return ViTConfig(
        image_size=(height, width_px),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads or opened.infer_num_heads(width, depth, mlp_dim),
        mlp_dim=mlp_dim,
        mlp="swiglu" if gate in file else "plain",
        reg_tokens=opened.shape("reg_token", 3)[1],
        global_pool=pool,
        position="rotary",
        qkv_bias="blocks.0.attn.q_bias" in file,
        init_values=1e-5,
        act="gelu",
        norm_eps=dinov3.NORM_EPS,
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    """Return the mapping of every tensor."""
    rules = [
        *copy_layer("patch_embed.proj"),
        copy("cls_token"),
        copy("reg_token"),
        *copy_layer("norm"),
    ]
    for index in range(config.depth):
        block = f"blocks.{index}."
        for part in ("norm1", "norm2", "attn.proj", "mlp.fc2"):
            rules += copy_layer(f"{block}{part}")
        rules += [copy(f"{block}ls{n}.gamma", f"{block}gamma_{n}") for n in (1, 2)]
        rules.append(copy(f"{block}attn.qkv.weight"))
        if config.qkv_bias:
            biases = [f"{block}attn.{it}_bias" for it in "qv"]
            rules.append(concat_without_key(f"{block}attn.qkv.bias", biases))
        if config.mlp == "swiglu":
            for part in ("weight", "bias"):
                first = [f"{block}mlp.fc1_{it}.{part}" for it in "gx"]
                rules.append(concat(f"{block}mlp.fc1.{part}", first))
        else:
            rules += copy_layer(f"{block}mlp.fc1")
    if config.num_classes:
        rules += copy_layer("head")
    return rules


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return the notes: the file is one for `load_state_dict` of timm's model."""
    return LayoutOutput(
        notes=tuple(
            differences(spec.config, "timm", norm_eps=dinov3.NORM_EPS),
        )
    )


def _bare(name: str) -> str:
    return name.partition(".")[0]


def _preprocess(opened: LayoutInput, config: ViTConfig) -> Preprocess:
    if "mean" in settings.read_pretrained(opened):
        return read_preprocess(opened, config)
    opened.notes.append("images as for DINOv3 assumed: the file does not say")
    return imagenet_crop(config.image_hw, 1.0)


LAYOUT = Layout(
    name="timm_dinov3",
    title="timm DINOv3",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
