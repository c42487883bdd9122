"""torchvision's Vision Transformers: vit_b_16, vit_b_32, vit_l_16, vit_l_32, vit_h_14.

A state dict alone. Its code has a LayerNorm epsilon of 1e-6, the exact GELU and images
of one size.
"""

import re
from dataclasses import replace
from functools import partial

from vitral.data import Preprocess
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping, copy, copy_layer
from vitral.weights.numerics import differences, imagenet_crop

STEM = ("conv_proj.weight", "class_token", "encoder.pos_embedding")
BLOCK = "encoder.layers.encoder_layer_"
OLD_MLP = {"linear_1": "0", "linear_2": "3"}
"""Names of the MLP's layers in older versions, and today."""
LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    limits.LEARNED_AT_STEM,
    limits.CLASS_TOKEN_ROW,
    ("its head looks at the class token", lambda it: it.global_pool != "token"),
    limits.NO_REGISTERS,
    limits.PLAIN_MLP,
    limits.ALL_BIASES,
    limits.NO_QK_NORM,
    limits.NO_LAYER_SCALE,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.KEY_BIAS,
    limits.NORM_BEFORE_POOL,
    limits.SQUARE_PATCHES,
    ("its images are square", lambda it: it.image_hw[0] != it.image_hw[1]),
    limits.THREE_CHANNELS,
    (
        "it has a tanh layer before a head only",
        lambda it: it.representation_size > 0 and it.num_classes == 0,
    ),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names of torchvision's VisionTransformer."""
    return all(name in opened.file for name in STEM)


def read(opened: LayoutInput) -> WeightsSource:
    old = f"{BLOCK}0.mlp.linear_1.weight" in opened.file
    first = "linear_1" if old else "0"
    mlp_dim = opened.shape(f"{BLOCK}0.mlp.{first}.weight", 2)[0]
    blocks = rf"{re.escape(BLOCK)}(\d+)\."
    config = ViTConfig(
        **opened.vit_fields(STEM[0], STEM[2], blocks, mlp_dim),
        num_classes=opened.rows("heads.head.weight"),
        representation_size=opened.rows("heads.pre_logits.weight"),
        position_resize="bicubic",
        act="gelu",
        norm_eps=1e-6,
    )
    rules = mappings(config)
    if old:
        rules = [_legacy_mapping(rule) for rule in rules]
    preprocess = default_preprocess(config, opened.notes)
    return opened.source(LAYOUT.title, config, rules, preprocess)


def mappings(config: ViTConfig) -> list[TensorMapping]:
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
            rule = copy(f"{ours}.attn.qkv.{part}", f"{attention}.in_proj_{part}")
            made.append(rule)
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


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return notes on what torchvision does not store or computes differently."""
    config, preprocess = spec.config, spec.preprocess
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
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    class_token_row="with",
)
