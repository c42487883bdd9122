"""Files of DINO (arXiv 2104.14294) and DINOv2 (2304.07193), in their code's layout.

DINO's training checkpoints hold a student and a teacher, of which the teacher is read.
DINOv2 differs from timm's names by registers, a mask token, SwiGLU names and chunked
block numbers. A DINO backbone alone has timm's names and is read as timm's layout.
"""

import re

import torch
from torch import Tensor

from vitral.data import Preprocess
from vitral.layers.position import ResizeMethod
from vitral.models import ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import TensorFile, with_names
from vitral.weights.infer_config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    count_blocks,
    drop_reasons,
    imagenet_crop,
    infer_num_heads,
    infer_positions,
    require_shape,
)
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping, copy
from vitral.weights.numerics import differences

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


def detect(opened: LayoutInput) -> bool:
    """Return whether this is a training checkpoint, or has names of DINOv2 only."""
    if "vitral" in opened.config_json:
        return False
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
    notes = list(opened.notes)
    prefix = _prefix(opened.file)
    if prefix.startswith("student"):
        notes.append("the student of a training checkpoint, which has no teacher")
    file = with_names(opened.file, _plain_names(opened.file, prefix))
    config = vit_config(opened, file, notes)
    rules = mappings(config)
    foreign_names = {name for rule in rules for name in rule.theirs}
    notes.append("images as for the published models of DINO and DINOv2 assumed")
    if config.reg_tokens == 0:
        notes.append(
            "for images of another size the authors' code resizes positions with an "
            "offset of a tenth of a patch, here there is none: the answers differ a "
            "little there"
        )
    return WeightsSource(
        layout=LAYOUT.title,
        file=file,
        config=config,
        mappings=tuple(rules),
        preprocess=default_preprocess(config),
        dropped=drop_reasons(file, DROPPED, foreign_names.__contains__),
        notes=tuple(notes),
    )


def vit_config(opened: LayoutInput, file: TensorFile, notes: list[str]) -> ViTConfig:
    """Infer the settings from the shapes, with the constants of DINO's code."""
    width, chans, rows, columns = require_shape(file, "patch_embed.proj.weight", 4)
    depth = count_blocks(file, r"blocks\.(\d+)\.")
    swiglu = "blocks.0.mlp.w3.weight" in file
    last = "w3" if swiglu else "fc2"
    mlp_dim = require_shape(file, f"blocks.0.mlp.{last}.weight", 2)[1]
    registers = "register_tokens" in file
    table = require_shape(file, "pos_embed", 3)[1]
    grid = infer_positions(opened, "pos_embed", table, (1,), notes=notes).grid
    return ViTConfig(
        image_size=(grid.rows * rows, grid.columns * columns),
        patch_size=(rows, columns),
        in_chans=chans,
        num_classes=0,
        embed_dim=width,
        depth=depth,
        num_heads=infer_num_heads(opened, width, depth, mlp_dim, notes=notes),
        mlp_dim=mlp_dim,
        mlp="swiglu" if swiglu else "plain",
        reg_tokens=require_shape(file, "register_tokens", 3)[1] if registers else 0,
        no_embed_reg=registers,
        position_resize=_resize_method(registers),
        qkv_bias="blocks.0.attn.qkv.bias" in file,
        proj_bias="blocks.0.attn.proj.bias" in file,
        init_values=1e-5 if "blocks.0.ls1.gamma" in file else None,
        act="gelu",
        norm_eps=1e-6,
    )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    assert isinstance(config, ViTConfig)
    made = [
        copy(name)
        for name in (
            "cls_token",
            "pos_embed",
            "patch_embed.proj.weight",
            "patch_embed.proj.bias",
            "norm.weight",
            "norm.bias",
        )
    ]
    if config.reg_tokens:
        made.append(copy("reg_token", "register_tokens"))
    fc1, fc2 = ("w12", "w3") if config.mlp == "swiglu" else ("fc1", "fc2")
    for index in range(config.depth):
        block = f"blocks.{index}."
        layers = {"norm1": "norm1", "norm2": "norm2"}
        layers |= {"mlp.fc1": f"mlp.{fc1}", "mlp.fc2": f"mlp.{fc2}"}
        for ours, theirs in layers.items():
            for part in ("weight", "bias"):
                made.append(copy(f"{block}{ours}.{part}", f"{block}{theirs}.{part}"))
        biased = {"attn.qkv": config.qkv_bias, "attn.proj": config.proj_bias}
        for name, bias in biased.items():
            made.append(copy(f"{block}{name}.weight"))
            if bias:
                made.append(copy(f"{block}{name}.bias"))
        if config.init_values is not None:
            made += [copy(f"{block}ls{at}.gamma") for at in (1, 2)]
    return made


def default_preprocess(config: ViTConfig) -> Preprocess:
    """Return the published evaluation: 256 pixels, of which the centre 224, bicubic."""
    return imagenet_crop(config.image_hw, 224 / 256)


def unsupported_reason(config: ModelConfig) -> str:
    if type(config) is not ViTConfig:
        return "it has no such family of models"
    reasons = {
        "its backbones have no head": config.num_classes > 0,
        "its positions are learned, one row a patch, added at the stem": (
            config.position != "learned_1d" or config.position_at != "stem"
        ),
        "its models have a class token with a position of its own": (
            not config.class_token or config.no_embed_class
        ),
        "its registers have no positions": (
            config.reg_tokens > 0 and not config.no_embed_reg
        ),
        "its features are those of the class token": config.global_pool != "token",
        "it has no tanh layer": config.representation_size > 0,
        "it does not normalise queries and keys": config.qk_norm,
        "its heads together are as wide as the model": (
            config.attention_dim != config.embed_dim
        ),
        "its patches have no norms": config.patch_norm,
        "its final norm comes before pooling": config.norm_after_pool,
        "its position tables are those of square grids": (
            config.grid.rows != config.grid.columns
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def make_output(spec: ModelSpec) -> LayoutOutput:
    """Return the mask token that DINOv2's code requires, and notes on the differences.

    Without LayerScale it is a backbone of the first DINO, whose code has no such token.
    """
    config = spec.config
    assert isinstance(config, ViTConfig)
    notes, new = list[str](), dict[str, Tensor]()
    if config.init_values is not None:
        new["mask_token"] = torch.zeros(1, config.embed_dim)
        notes.append("the mask token is zeros: it takes part in the pre-training only")
    notes += differences(
        config, "DINOv2's code", resize=_resize_method(config.reg_tokens > 0)
    )
    statistics = (spec.preprocess.mean, spec.preprocess.std)
    if statistics != (IMAGENET_MEAN, IMAGENET_STD):
        notes.append(
            "DINOv2's code keeps no pre-processing with its weights and normalises by "
            "ImageNet's mean and deviation, which are not those of this model"
        )
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
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
