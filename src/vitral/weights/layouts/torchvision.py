"""torchvision's Vision Transformers: vit_b_16, vit_b_32, vit_l_16, vit_l_32, vit_h_14.

A state dict alone. Its code has a LayerNorm epsilon of 1e-6, the exact GELU and images
of one size.
"""

import re
from dataclasses import replace

from vitral.data import Preprocess
from vitral.models import ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import TensorFile
from vitral.weights.infer_config import (
    count_blocks,
    imagenet_crop,
    infer_num_heads,
    infer_positions,
    require_shape,
    rows_or_zero,
)
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping, copy, copy_layer
from vitral.weights.numerics import differences

STEM = ("conv_proj.weight", "class_token", "encoder.pos_embedding")
BLOCK = "encoder.layers.encoder_layer_"
OLD_MLP = {"linear_1": "0", "linear_2": "3"}
"""Names of the MLP's layers in older versions, and today."""


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names of torchvision's VisionTransformer."""
    return all(name in opened.file for name in STEM)


def read(opened: LayoutInput) -> WeightsSource:
    notes = list(opened.notes)
    file = opened.file
    config = vit_config(opened, notes)
    made = mappings(config)
    if _is_old(file):
        made = [_legacy_mapping(rule) for rule in made]
    return WeightsSource(
        layout=LAYOUT.title,
        file=file,
        config=config,
        mappings=tuple(made),
        preprocess=default_preprocess(config, notes),
        notes=tuple(notes),
    )


def vit_config(opened: LayoutInput, notes: list[str]) -> ViTConfig:
    """Infer the settings from the shapes; heads as in torchvision's own sizes."""
    file = opened.file
    width, chans, rows, columns = require_shape(file, STEM[0], 4)
    depth = count_blocks(file, rf"{re.escape(BLOCK)}(\d+)\.")
    first = "linear_1" if _is_old(file) else "0"
    mlp_dim = require_shape(file, f"{BLOCK}0.mlp.{first}.weight", 2)[0]
    table = STEM[2]
    grid = infer_positions(
        opened, table, require_shape(file, table, 3)[1], (1,), notes=notes
    ).grid
    return ViTConfig(
        image_size=(grid.rows * rows, grid.columns * columns),
        patch_size=(rows, columns),
        in_chans=chans,
        num_classes=rows_or_zero(file, "heads.head.weight"),
        embed_dim=width,
        depth=depth,
        num_heads=infer_num_heads(opened, width, depth, mlp_dim, notes=notes),
        mlp_dim=mlp_dim,
        representation_size=rows_or_zero(file, "heads.pre_logits.weight"),
        position_resize="bicubic",
        act="gelu",
        norm_eps=1e-6,
    )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    assert isinstance(config, ViTConfig)
    made = [
        copy("cls_token", "class_token"),
        copy("pos_embed", "encoder.pos_embedding"),
        *copy_layer("patch_embed.proj", "conv_proj"),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"{BLOCK}{index}"
        attention = f"{theirs}.self_attention"
        made += copy_layer(f"{ours}.norm1", f"{theirs}.ln_1")
        for part in ("weight", "bias"):
            qkv = f"{attention}.in_proj_{part}"
            made.append(copy(f"{ours}.attn.qkv.{part}", qkv))
        made += copy_layer(f"{ours}.attn.proj", f"{attention}.out_proj")
        made += copy_layer(f"{ours}.norm2", f"{theirs}.ln_2")
        made += copy_layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.0")
        made += copy_layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.3")
    made += copy_layer("norm", "encoder.ln")
    if config.representation_size:
        made += copy_layer("pre_logits.fc", "heads.pre_logits")
    return made + (copy_layer("head", "heads.head") if config.num_classes else [])


def default_preprocess(config: ViTConfig, notes: list[str]) -> Preprocess:
    """Return the pre-processing of the published weights of this size."""
    side = config.image_hw[0]
    patch = config.patch_hw[0]
    # ViT-H/14 and all sizes above 224 were published from SWAG's pre-training only.
    if side > 224 or patch == 14:
        notes.append("images as for torchvision's IMAGENET1K_SWAG weights assumed")
        return imagenet_crop(config.image_hw, 1.0)
    resized = 242 if (config.embed_dim, patch) == (1024, 16) else 256
    note = "images as for torchvision's IMAGENET1K_V1 weights assumed"
    if patch == 16:
        note += "; its IMAGENET1K_SWAG_LINEAR_V1 wants them bicubic and uncut"
    notes.append(note)
    return imagenet_crop(config.image_hw, 224 / resized, "bilinear")


def unsupported_reason(config: ModelConfig) -> str:
    if type(config) is not ViTConfig:
        return "it has no such family of models"
    reasons = {
        "its positions are learned, one row a patch, added at the stem": (
            config.position != "learned_1d" or config.position_at != "stem"
        ),
        "its models have a class token with a position of its own": (
            not config.class_token or config.no_embed_class
        ),
        "its head looks at the class token": config.global_pool != "token",
        "it has no registers": config.reg_tokens > 0,
        "its perceptrons are plain": config.mlp != "plain",
        "its attention has biases everywhere": (
            not config.qkv_bias or not config.proj_bias
        ),
        "it does not normalise queries and keys": config.qk_norm,
        "it has no LayerScale": config.init_values is not None,
        "its heads together are as wide as the model": (
            config.attention_dim != config.embed_dim
        ),
        "its patches have no norms": config.patch_norm,
        "its final norm comes before pooling": config.norm_after_pool,
        "its patches are square": config.patch_hw[0] != config.patch_hw[1],
        "its images are square": config.image_hw[0] != config.image_hw[1],
        "its images have three channels": config.in_chans != 3,
        "it has a tanh layer before a head only": (
            config.representation_size > 0 and config.num_classes == 0
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def make_output(spec: ModelSpec) -> LayoutOutput:
    """Return notes on what torchvision does not store or computes differently."""
    config, preprocess = spec.config, spec.preprocess
    assert isinstance(config, ViTConfig)
    notes = [
        *differences(config, "torchvision"),
        f"torchvision takes images of {config.image_hw[0]} x {config.image_hw[1]} "
        "pixels only",
        "torchvision keeps no pre-processing with its weights: images must be "
        f"{_describe_preprocess(preprocess)}",
    ]
    if spec.classes:
        notes.append("torchvision keeps no names of classes with its weights")
    if config.num_classes == 0:
        notes.append("the model has no head: give torchvision's an `nn.Identity`")
    return LayoutOutput(notes=tuple(notes))


def _describe_preprocess(preprocess: Preprocess) -> str:
    mean = ", ".join(f"{value:g}" for value in preprocess.mean)
    std = ", ".join(f"{value:g}" for value in preprocess.std)
    resizing = "squashed" if preprocess.resize == "squash" else "resized and cut"
    return (
        f"{resizing} with {preprocess.interpolation} interpolation, then normalised by "
        f"mean {mean} and deviation {std}"
    )


def _is_old(file: TensorFile) -> bool:
    return f"{BLOCK}0.mlp.linear_1.weight" in file


def _legacy_mapping(rule: TensorMapping) -> TensorMapping:
    """Return the mapping for the MLP's names in files of older versions."""
    name = rule.theirs[0]
    for before, today in OLD_MLP.items():
        name = name.replace(f".mlp.{today}.", f".mlp.{before}.")
    return replace(rule, theirs=(name,))


LAYOUT = Layout(
    name="torchvision",
    title="torchvision",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
