"""Files of DINO (arXiv 2104.14294) and DINOv2 (2304.07193), in their code's layout.

DINO's training checkpoints hold a student and a teacher, of which the teacher is read.
DINOv2 differs from timm's names by registers, a mask token, SwiGLU names and chunked
block numbers. A DINO backbone alone has timm's names and is read as timm's layout.
"""

import re
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vitral.layers.position import ResizeMethod
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import TensorFile, with_names
from vitral.weights.layouts import limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping, copy, copy_layer
from vitral.weights.numerics import (
    differences,
    imagenet_crop,
    other_statistics,
)

BACKBONES = (
    "teacher/backbone.",
    "teacher/module.backbone.",
    "student/backbone.",
    "student/module.backbone.",
    "teacher.backbone.",
    "student.backbone.",
)
"""Prefixes of the encoder in a training checkpoint, the preferred first."""
CHUNK = re.compile(r"blocks\.\d+\.(\d+\..+)")
DROPPED = {
    r"mask_token$": "of the pre-training only",
    r"(teacher|student)[./].*(head|prototypes)": (
        "the projection head of the pre-training"
    ),
    r"student[./]": "the student: the teacher is its average over time",
    r"(optimizer|fp16_scaler|scheduler|dino_loss|ibot\w*_loss|args|epoch|iteration)": (
        "of the training, not of the model"
    ),
}
LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    ("its backbones have no head", lambda it: it.num_classes > 0),
    limits.LEARNED_AT_STEM,
    limits.CLASS_TOKEN_ROW,
    limits.ROWLESS_REGISTERS,
    limits.CLASS_TOKEN_FEATURES,
    limits.NO_TANH,
    limits.NO_QK_NORM,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.NO_MLP_NORM,
    limits.KEY_BIAS,
    limits.NORM_BEFORE_POOL,
    limits.SQUARE_TABLES,
)


def detect(opened: LayoutInput) -> bool:
    """Return whether this is a training checkpoint, or has names of DINOv2 only."""
    file = opened.file
    if _prefix(file):
        return True
    if "patch_embed.proj.weight" not in file or "decoder_embed.weight" in file:
        return False
    dinov2_names = (
        "register_tokens",
        "blocks.0.mlp.w12.weight",
        "blocks.0.0.norm1.weight",
    )
    return any(name in file for name in dinov2_names)


def read(opened: LayoutInput) -> WeightsSource:
    """Read the encoder, without the parts of the pre-training."""
    prefix = _prefix(opened.file)
    if prefix.startswith("student"):
        opened.notes.append(
            "the student of a training checkpoint, which has no teacher"
        )
    file = with_names(opened.file, _plain_names(opened.file, prefix))
    opened = replace(opened, file=file)
    config = _vit_config(opened)
    opened.notes.append("images as for the published models of DINO and DINOv2 assumed")
    if config.reg_tokens == 0:
        opened.notes.append(
            "for images of another size the authors' code resizes positions with an "
            "offset of a tenth of a patch, here there is none: the answers differ a "
            "little there"
        )
    # The published evaluation: 256 pixels, of which the centre 224, bicubic.
    preprocess = imagenet_crop(config.image_hw, 224 / 256)
    return opened.source(
        LAYOUT.title, config, mappings(config), preprocess, drop=DROPPED
    )


def _vit_config(opened: LayoutInput) -> ViTConfig:
    """Infer the settings from the shapes, with the constants of DINO's code."""
    file = opened.file
    swiglu = "blocks.0.mlp.w3.weight" in file
    last = "w3" if swiglu else "fc2"
    mlp_dim = opened.shape(f"blocks.0.mlp.{last}.weight", 2)[1]
    registers = "register_tokens" in file
    return ViTConfig(
        **opened.vit_fields(
            "patch_embed.proj.weight", "pos_embed", r"blocks\.(\d+)\.", mlp_dim
        ),
        num_classes=0,
        mlp="swiglu" if swiglu else "plain",
        reg_tokens=opened.shape("register_tokens", 3)[1] if registers else 0,
        no_embed_reg=registers,
        position_resize=_resize_method(registers),
        qkv_bias="blocks.0.attn.qkv.bias" in file,
        proj_bias="blocks.0.attn.proj.bias" in file,
        init_values=1e-5 if "blocks.0.ls1.gamma" in file else None,
        act="gelu",
        norm_eps=1e-6,
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    made = [
        copy("cls_token"),
        copy("pos_embed"),
        *copy_layer("patch_embed.proj"),
        *copy_layer("norm"),
    ]
    if config.reg_tokens:
        made.append(copy("reg_token", "register_tokens"))
    fc1, fc2 = ("w12", "w3") if config.mlp == "swiglu" else ("fc1", "fc2")
    for index in range(config.depth):
        block = f"blocks.{index}."
        made += copy_layer(f"{block}norm1")
        made += copy_layer(f"{block}norm2")
        made += copy_layer(f"{block}mlp.fc1", f"{block}mlp.{fc1}")
        made += copy_layer(f"{block}mlp.fc2", f"{block}mlp.{fc2}")
        made += copy_layer(f"{block}attn.qkv", bias=config.qkv_bias)
        made += copy_layer(f"{block}attn.proj", bias=config.proj_bias)
        if config.init_values is not None:
            made += [copy(f"{block}ls{at}.gamma") for at in (1, 2)]
    return made


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return the mask token that DINOv2's code requires, and notes on the differences.

    Without LayerScale it is a backbone of the first DINO, whose code has no such token.
    """
    config = spec.config
    notes, new = list[str](), dict[str, Tensor]()
    if config.init_values is not None:
        new["mask_token"] = torch.zeros(1, config.embed_dim)
        notes.append("the mask token is zeros: it takes part in the pre-training only")
    resize = _resize_method(config.reg_tokens > 0)
    notes += differences(config, "DINOv2's code", resize=resize)
    notes += other_statistics(spec.preprocess, "DINOv2's code")
    return LayoutOutput(new=new, notes=tuple(notes))


def _resize_method(registers: bool) -> ResizeMethod:
    """Return the resizing of its training code, which low-passes since registers."""
    return "bicubic_antialias" if registers else "bicubic"


def _prefix(file: TensorFile) -> str:
    """Return the encoder's prefix in a training checkpoint; empty for other files."""
    names = file.names()
    for prefix in BACKBONES:
        if any(name.startswith(f"{prefix}patch_embed.") for name in names):
            return prefix
    return ""


def _plain_names(file: TensorFile, prefix: str) -> dict[str, str]:
    """Map the names of an unchunked backbone to the file's."""
    chosen = {}
    for name in file.names():
        native = name
        if name.startswith(prefix):
            native = name.removeprefix(prefix)
            if match := CHUNK.fullmatch(native):
                native = f"blocks.{match[1]}"
        chosen[native] = name
    return chosen


LAYOUT = Layout(
    name="dino",
    title="DINOv2",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    same_names="",
    class_token_row="with",
)
