"""Hugging Face's CLIP: CLIPVisionModel, with a projection or not, or both towers.

The projection to the space that images and texts share is the head. transformers' last
hidden state has no final norm, and its pooled vector has: vitral's patch features have.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from vitral.errors import WeightsError
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.fields import (
    ACTIVATION_NAMES,
    CONFIG,
)
from vitral.weights.layouts.huggingface.vit import ACTIVATIONS
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.shared import clip
from vitral.weights.mapping import TensorMapping, concat, copy, copy_layer, reshape
from vitral.weights.numerics import differences

PREFIXES = ("vision_model.", "")
STEM = "embeddings.patch_embedding.weight"
PROJECTION = "visual_projection.weight"
DROPPED = {
    **clip.DROPPED,
    r"(text_model|text_projection)\.": clip.TEXT,
}
TYPES = (None, "clip", "clip_vision_model")


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and not those of another type of model."""
    known = opened.config_json.get("model_type") in TYPES
    return known and _prefix(opened) is not None


def _prefix(opened: LayoutInput) -> str | None:
    for prefix in PREFIXES:
        names = (f"{prefix}{STEM}", f"{prefix}pre_layrnorm.weight")
        if all(name in opened.file for name in names):
            return prefix
    return None


def read(opened: LayoutInput) -> WeightsSource:
    """Read the image tower that the tensors and config.json describe."""
    prefix, settings = _prefix(opened), _settings(opened)
    assert prefix is not None
    if "classifier.weight" in opened.file:
        raise WeightsError(
            f"{opened.path}: its classifier looks at the mean of the patches before "
            "the final norm (CLIPForImageClassification), which vitral's model does "
            "not do. Use transformers for it, or give the tower without a classifier."
        )
    table = f"{prefix}embeddings.position_embedding.weight"
    layers = f"{prefix}encoder.layers."
    width, chans, *patch = opened.shape(f"{prefix}{STEM}", 4)
    grid = opened.infer_positions(table, opened.shape(table, 2)[0], (1,))
    mlp_dim = opened.rows(f"{layers}0.mlp.fc1.weight")
    depth = opened.count_blocks(layers.replace(".", "[.]") + r"(\d+)\.")
    heads = settings.get("num_attention_heads", 12) if settings else None
    config = ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=opened.rows(PROJECTION),
        embed_dim=width,
        depth=depth,
        num_heads=opened.choose_num_heads(heads)
        or opened.infer_num_heads(width, depth, mlp_dim),
        mlp_dim=mlp_dim,
        norm_pre=True,
        norm_eps=float(settings.get("layer_norm_eps", 1e-5)),
        act=_activation(opened, settings),
        position_resize="bicubic",
    )
    _check_sizes(opened, settings, config)
    clip.note_left_out(opened, "text_model.embeddings.token_embedding.weight")
    rules = _mappings(config, prefix)
    return opened.source(
        LAYOUT.title,
        config,
        rules + (clip.head_bias(config) if config.num_classes else []),
        preprocessor.read(opened, "clip", config.image_hw),
        drop=DROPPED,
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    return _mappings(config, PREFIXES[0])


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    notes = differences(
        config, "Hugging Face", act=None, norm_eps=None, resize="bicubic"
    )
    fields = {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_chans,
        "image_size": config.image_hw[0],
        "patch_size": config.patch_hw[0],
        "hidden_act": ACTIVATION_NAMES[config.act],
        "layer_norm_eps": config.norm_eps,
        "attention_dropout": 0.0,
    }
    sidecar_files = {
        "config.json": fields,
        "preprocessor_config.json": preprocessor.write(spec.preprocess, notes),
    }
    return LayoutOutput(sidecar_files=sidecar_files, notes=tuple(notes))


def _settings(opened: LayoutInput) -> Mapping[str, Any]:
    """Return the fields on the image tower, which CLIP of both towers keeps inside."""
    file, found = opened.path.with_name("config.json"), opened.config_json
    if found.get("model_type") == "clip":
        kinds = {"vision_config": json_fields.OBJECT}
        json_fields.check_fields(file, found, kinds)
        found = found.get("vision_config", {})
        # A config without a field has transformers' default, also without any field.
        found = {"model_type": "clip_vision_model", **found}
    json_fields.check_fields(file, found, CONFIG)
    return found


def _activation(opened: LayoutInput, settings: Mapping[str, Any]) -> Any:
    name = settings.get("hidden_act", "quick_gelu")
    if name not in ACTIVATIONS:
        raise json_fields.refusal(
            opened.path.with_name("config.json"),
            "hidden_act",
            name,
            f"{' or '.join(ACTIVATIONS)}, which vitral's model has",
        )
    if not settings:
        clip.note_activation(opened, ACTIVATIONS[name])
    return ACTIVATIONS[name]


def _check_sizes(
    opened: LayoutInput, settings: Mapping[str, Any], config: ViTConfig
) -> None:
    """Refuse sizes in config.json that the tensors contradict."""
    actual = {
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_channels": config.in_chans,
        "image_size": config.image_hw[0],
        "patch_size": config.patch_hw[0],
    }
    pairs = {name: (settings.get(name), value) for name, value in actual.items()}
    json_fields.check_agreement(opened.path.with_name("config.json"), pairs)


def _mappings(config: ViTConfig, prefix: str) -> list[TensorMapping]:
    dim, rows = config.embed_dim, 1 + config.grid.rows * config.grid.columns
    inside = f"{prefix}embeddings."
    table = f"{inside}position_embedding.weight"
    rules = [
        copy("patch_embed.proj.weight", f"{prefix}{STEM}"),
        reshape("cls_token", f"{inside}class_embedding", (1, 1, dim), (dim,)),
        reshape("pos_embed", table, (1, rows, dim), (rows, dim)),
        # transformers spells it so.
        *copy_layer("norm_pre", f"{prefix}pre_layrnorm"),
        *copy_layer("norm", f"{prefix}post_layernorm"),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}.", f"{prefix}encoder.layers.{index}."
        for part in ("weight", "bias"):
            parts = [f"{theirs}self_attn.{it}_proj.{part}" for it in "qkv"]
            rules.append(concat(f"{ours}attn.qkv.{part}", parts))
        rules += copy_layer(f"{ours}attn.proj", f"{theirs}self_attn.out_proj")
        rules += copy_layer(f"{ours}norm1", f"{theirs}layer_norm1")
        rules += copy_layer(f"{ours}norm2", f"{theirs}layer_norm2")
        rules += copy_layer(f"{ours}mlp.fc1", f"{theirs}mlp.fc1")
        rules += copy_layer(f"{ours}mlp.fc2", f"{theirs}mlp.fc2")
    if config.num_classes:
        rules.append(copy("head.weight", PROJECTION))
    return rules


LAYOUT = Layout(
    name="huggingface_clip",
    title="Hugging Face CLIP",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, clip.LIMITS),
    make_output=make_output,
    class_token_row="with",
)
