"""Hugging Face's DINOv3ViTModel: config.json and tensors, read and written.

It has no head: its features are those of the class token.
"""

from functools import partial

import torch

from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.fields import (
    ACTIVATION_NAMES,
    check_config,
    check_sizes,
)
from vitral.weights.layouts.huggingface.vit import read_activation
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.shared import dinov3
from vitral.weights.mapping import (
    TensorMapping,
    concat,
    concat_without_key,
    copy,
    copy_layer,
)
from vitral.weights.numerics import differences

STEM = "embeddings.patch_embeddings.weight"
BLOCKS = ("layer.", "model.layer.")
"""Prefix of the blocks: of files on the hub, and of newer ones in memory."""
LIMITS: tuple[limits.Limit, ...] = (
    *dinov3.LIMITS,
    ("it has no head", lambda it: it.num_classes > 0),
    limits.CLASS_TOKEN_FEATURES,
    limits.SQUARE_PATCHES,
    ("it has one side of images", lambda it: it.image_hw[0] != it.image_hw[1]),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and not those of another type of model."""
    known = opened.config_json.get("model_type") in (None, "dinov3_vit")
    return known and STEM in opened.file and _blocks(opened) is not None


def _blocks(opened: LayoutInput) -> str | None:
    inside = "0.layer_scale1.lambda1"
    return next((it for it in BLOCKS if f"{it}{inside}" in opened.file), None)


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that config.json and the shapes describe."""
    blocks, settings, file = _blocks(opened), opened.config_json, opened.file
    assert blocks is not None
    check_config(opened)
    if settings.get("rope_theta", 100.0) != 100:
        raise json_fields.refusal(
            opened.path.with_name("config.json"),
            "rope_theta",
            settings["rope_theta"],
            "100, which vitral's model has",
        )
    width, chans, *patch = opened.shape(STEM, 4)
    first = f"{blocks}0."
    gated = f"{first}mlp.gate_proj.weight" in file
    fc2 = f"{first}mlp.down_proj.weight"
    mlp_dim = opened.shape(fc2, 2)[1]
    depth = opened.count_blocks(blocks.replace(".", "[.]") + r"(\d+)\.")
    heads = settings.get("num_attention_heads", 6) if settings else None
    side = settings.get("image_size", 224)
    size = (side, side) if isinstance(side, int) else tuple(side)
    if opened.grid is not None:
        size = (opened.grid.rows * patch[0], opened.grid.columns * patch[1])
    config = ViTConfig(
        image_size=size,
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=0,
        embed_dim=width,
        depth=depth,
        num_heads=opened.choose_num_heads(heads)
        or opened.infer_num_heads(width, depth, mlp_dim),
        mlp_dim=mlp_dim,
        mlp="swiglu" if gated else "plain",
        reg_tokens=opened.shape("embeddings.register_tokens", 3)[1],
        position="rotary",
        qkv_bias=f"{first}attention.q_proj.bias" in file,
        init_values=float(settings.get("layerscale_value", 1.0)),
        act=read_activation(opened) if not gated else "gelu",
        norm_eps=float(settings.get("layer_norm_eps", dinov3.NORM_EPS)),
    )
    if gated and settings.get("hidden_act", "silu") != "silu":
        raise json_fields.refusal(
            opened.path.with_name("config.json"),
            "hidden_act",
            settings["hidden_act"],
            "silu, with which vitral's gated perceptron is activated",
        )
    check_sizes(
        opened,
        {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_channels": chans,
            "intermediate_size": mlp_dim,
            "patch_size": patch[0],
            "num_register_tokens": config.reg_tokens,
        },
    )
    key = f"{first}attention.k_proj.bias" in file
    if config.qkv_bias and not key:
        opened.notes.append("the keys have no bias in the file: zero here, and learned")
    return opened.source(
        LAYOUT.title,
        config,
        _mappings(config, blocks, key),
        preprocessor.read(opened, "dinov3_vit", config.image_hw),
        drop=dinov3.DROPPED,
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    return _mappings(config, BLOCKS[0], config.qkv_bias)


def _mappings(config: ViTConfig, blocks: str, key_bias: bool) -> list[TensorMapping]:
    rules = [
        *copy_layer("patch_embed.proj", STEM.removesuffix(".weight")),
        copy("cls_token", "embeddings.cls_token"),
        copy("reg_token", "embeddings.register_tokens"),
        *copy_layer("norm"),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}.", f"{blocks}{index}."
        for n in (1, 2):
            rules += copy_layer(f"{ours}norm{n}", f"{theirs}norm{n}")
            rules.append(copy(f"{ours}ls{n}.gamma", f"{theirs}layer_scale{n}.lambda1"))
        projections = [f"{theirs}attention.{it}_proj" for it in "qkv"]
        weights = [f"{it}.weight" for it in projections]
        rules.append(concat(f"{ours}attn.qkv.weight", weights))
        biases = [f"{it}.bias" for it in projections]
        if config.qkv_bias and key_bias:
            rules.append(concat(f"{ours}attn.qkv.bias", biases))
        elif config.qkv_bias:
            rules.append(concat_without_key(f"{ours}attn.qkv.bias", biases[::2]))
        rules += copy_layer(f"{ours}attn.proj", f"{theirs}attention.o_proj")
        if config.mlp == "swiglu":
            for part in ("weight", "bias"):
                first = [f"{theirs}mlp.{it}_proj.{part}" for it in ("gate", "up")]
                rules.append(concat(f"{ours}mlp.fc1.{part}", first))
        else:
            rules += copy_layer(f"{ours}mlp.fc1", f"{theirs}mlp.up_proj")
        rules += copy_layer(f"{ours}mlp.fc2", f"{theirs}mlp.down_proj")
    return rules


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    notes = differences(config, "Hugging Face", act=None, norm_eps=None)
    swiglu = config.mlp == "swiglu"
    fields = {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_chans,
        "num_register_tokens": config.reg_tokens,
        "image_size": config.image_hw[0],
        "patch_size": config.patch_hw[0],
        "hidden_act": "silu" if swiglu else ACTIVATION_NAMES[config.act],
        "use_gated_mlp": swiglu,
        "layer_norm_eps": config.norm_eps,
        "layerscale_value": config.init_values,
        "rope_theta": 100.0,
        "mlp_bias": True,
        "proj_bias": True,
        **dict.fromkeys(("query_bias", "key_bias", "value_bias"), config.qkv_bias),
        "attention_dropout": 0.0,
    }
    mask = torch.zeros(1, 1, config.embed_dim)
    return LayoutOutput(
        sidecar_files={
            "config.json": fields,
            "preprocessor_config.json": preprocessor.write(spec.preprocess, notes),
        },
        new={"embeddings.mask_token": mask},
        notes=tuple(notes),
    )


LAYOUT = Layout(
    name="huggingface_dinov3",
    title="Hugging Face DINOv3",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
