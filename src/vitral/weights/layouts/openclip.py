"""Layout of OpenCLIP and OpenAI's CLIP: the image tower in `visual.`, as a ViT.

`open_clip_config.json` beside the tensors says whether the model has QuickGELU; where
it is missing, timm's name and tag in config.json.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.json_file import read_object
from vitral.layers import Activation
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.activations import read_activation
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.shared import clip
from vitral.weights.mapping import TensorMapping, copy, copy_layer, reshape, transpose
from vitral.weights.numerics import (
    CLIP_MEAN,
    CLIP_STD,
    clip_crop,
    differences,
    other_statistics,
)

STEM = "visual.conv1.weight"
BLOCKS = "visual.transformer.resblocks."
PROJECTION = "visual.proj"
CONFIG = "open_clip_config.json"
NORM_EPS = 1e-5
HEAD_DIM = 64
"""Channels of a head where open_clip_config.json does not say otherwise."""
DROPPED = {
    **clip.DROPPED,
    r"(transformer|token_embedding|positional_embedding|ln_final)": clip.TEXT,
    r"(text|text_projection|attn_mask|cls_emb)(\.|$)": clip.TEXT,
    r"(input_resolution|context_length|vocab_size)$": "a number, not of the tower",
}
VISION: dict[str, json_fields.Kind] = {
    "head_width": json_fields.COUNT,
    "image_size": json_fields.SIDES,
    "ls_init_value": (lambda it: it is None, "null: vitral's tower has no LayerScale"),
    "attentional_pool": (lambda it: it is False, "false, which vitral's tower has"),
    "no_ln_pre": (lambda it: it is False, "false, which vitral's tower has"),
    "pool_type": (lambda it: it == "tok", "tok, which vitral's tower has"),
    "final_ln_after_pool": json_fields.FLAG,
}


def detect(opened: LayoutInput) -> bool:
    """Return whether there is an image tower in OpenCLIP's names."""
    names = (STEM, "visual.class_embedding", f"{BLOCKS}0.attn.in_proj_weight")
    return all(name in opened.file for name in names)


def read(opened: LayoutInput) -> WeightsSource:
    """Read the image tower, the projection as its head."""
    settings = _read_settings(opened)
    vision = settings.get("vision_cfg", {})
    json_fields.check_fields(opened.path.with_name(CONFIG), vision, VISION)
    width, chans, *patch = opened.shape(STEM, 4)
    rows = opened.shape("visual.positional_embedding", 2)[0]
    grid = opened.infer_positions("visual.positional_embedding", rows, (1,))
    classes = opened.shape(PROJECTION, 2)[1] if PROJECTION in opened.file else 0
    depth = opened.count_blocks(BLOCKS.replace(".", "[.]") + r"(\d+)\.")
    mlp_dim = opened.rows(f"{BLOCKS}0.mlp.c_fc.weight")
    declared = width // vision["head_width"] if "head_width" in vision else None
    config = ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=opened.choose_num_heads(declared)
        or opened.infer_num_heads(width, depth, mlp_dim),
        mlp_dim=mlp_dim,
        norm_pre=True,
        norm_eps=NORM_EPS,
        act=_activation(opened, settings),
        position_resize="bicubic_antialias",
    )
    clip.note_left_out(opened, "positional_embedding")
    clip.note_left_out(opened, "text.positional_embedding")
    rules = mappings(config) + (clip.head_bias(config) if classes else [])
    return opened.source(
        LAYOUT.title, config, rules, _preprocess(opened, config), drop=DROPPED
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    """Return the mapping of every tensor but the head's bias."""
    dim, rows = config.embed_dim, 1 + config.grid.rows * config.grid.columns
    table = "visual.positional_embedding"
    rules = [
        copy("patch_embed.proj.weight", STEM),
        reshape("cls_token", "visual.class_embedding", (1, 1, dim), (dim,)),
        reshape("pos_embed", table, (1, rows, dim), (rows, dim)),
        *copy_layer("norm_pre", "visual.ln_pre"),
        *copy_layer("norm", "visual.ln_post"),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}.", f"{BLOCKS}{index}."
        for part in ("weight", "bias"):
            rules.append(copy(f"{ours}attn.qkv.{part}", f"{theirs}attn.in_proj_{part}"))
        rules += copy_layer(f"{ours}attn.proj", f"{theirs}attn.out_proj")
        rules += copy_layer(f"{ours}norm1", f"{theirs}ln_1")
        rules += copy_layer(f"{ours}norm2", f"{theirs}ln_2")
        rules += copy_layer(f"{ours}mlp.fc1", f"{theirs}mlp.c_fc")
        rules += copy_layer(f"{ours}mlp.fc2", f"{theirs}mlp.c_proj")
    if config.num_classes:
        rules.append(transpose("head.weight", PROJECTION))
    return rules


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return the notes: the file is the tower alone, without JSON."""
    config, whose = spec.config, "OpenCLIP"
    notes = (
        *differences(config, whose, act=None, norm_eps=NORM_EPS),
        "the image tower alone: OpenCLIP's model needs a text tower as well, and "
        f"`quick_gelu` {str(config.act == 'quick_gelu').lower()} in its settings",
        *other_statistics(
            spec.preprocess, whose, CLIP_MEAN, CLIP_STD, "CLIP's mean and deviation"
        ),
    )
    return LayoutOutput(notes=notes)


def _read_settings(opened: LayoutInput) -> Mapping[str, Any]:
    """Return `model_cfg` of open_clip_config.json; empty where it is not there."""
    file = opened.path.with_name(CONFIG)
    if not file.is_file():
        return {}
    hint = "Take the file that the weights came with."
    settings = read_object(file, WeightsError, hint).get("model_cfg", {})
    kinds = {"quick_gelu": json_fields.FLAG, "vision_cfg": json_fields.OBJECT}
    json_fields.check_fields(
        file, {"model_cfg": settings}, {"model_cfg": json_fields.OBJECT}
    )
    json_fields.check_fields(file, settings, kinds, "model_cfg.")
    return settings


def _activation(opened: LayoutInput, settings: Mapping[str, Any]) -> Activation:
    if settings:
        return "quick_gelu" if settings.get("quick_gelu") else "gelu"
    known = isinstance(opened.config_json.get("architecture"), str)
    act = read_activation(opened, {})
    if not known:
        clip.note_activation(opened, act)
    return act


def _preprocess(opened: LayoutInput, config: ViTConfig) -> Preprocess:
    opened.notes.append("images as for OpenAI's CLIP assumed: the file does not say")
    return clip_crop(config.image_hw)


LAYOUT = Layout(
    name="openclip",
    title="OpenCLIP",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, clip.LIMITS),
    make_output=make_output,
    class_token_row="with",
)
