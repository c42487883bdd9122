"""Hugging Face's TimeSformer: config.json, model.safetensors, preprocessor_config.json.

`TimesformerForVideoClassification`, or `TimesformerModel` without a head. With space
attention that class gives logits per frame; vitral, like the released code, gives one
answer per clip, from the mean of the frames' class tokens.
"""

from functools import partial
from typing import Any

from vitral.errors import WeightsError
from vitral.models import AttentionType, TimeSformerConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits
from vitral.weights.layouts.facebook import timesformer
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.config import head_fields, read_classes
from vitral.weights.layouts.huggingface.fields import (
    ACTIVATION_NAMES,
    check_config,
    check_sizes,
)
from vitral.weights.layouts.huggingface.vit import read_activation
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.problem_type import read_problem_type
from vitral.weights.mapping import TensorMapping, copy, copy_layer

STEM = "embeddings.patch_embeddings.projection.weight"
QKV = "encoder.layer.0.attention.attention.qkv.weight"
PREFIXES = ("timesformer.", "")
"""Prefix of every name but the head's: with a head, and without."""
ATTENTION_TYPES: dict[str, AttentionType] = {
    "divided_space_time": "divided",
    "joint_space_time": "joint",
    "space_only": "space",
}
EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
PARTS = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Foreign names of the parts of a block."""
LIMITS: tuple[limits.Limit, ...] = (
    *timesformer.STRUCTURE,
    (
        "its frames and patches are square",
        lambda it: any(size[0] != size[1] for size in (it.image_hw, it.patch_hw)),
    ),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether a block has Hugging Face's names and a fused qkv matrix."""
    return _prefix(opened) is not None


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that the tensors and config.json describe."""
    prefix = _prefix(opened)
    assert prefix is not None
    check_config(opened)
    config = _config(opened, prefix)
    return opened.source(
        LAYOUT.title,
        config,
        _mappings(config, prefix),
        preprocessor.read(opened, "timesformer", config.image_hw),
        classes=read_classes(opened.config_json, config.num_classes),
        extra=read_problem_type(opened),
    )


def _config(opened: LayoutInput, prefix: str) -> TimeSformerConfig:
    file, config_json = opened.file, opened.config_json
    if not config_json:
        opened.notes.append(
            "the settings of a TimeSformer of Hugging Face assumed: there is no "
            "config.json beside the tensors"
        )
    blocks = f"{prefix}encoder.layer."
    side = config_json.get("image_size")
    sizes = opened.vit_fields(
        f"{prefix}{STEM}",
        f"{prefix}embeddings.position_embeddings",
        rf"{blocks.replace('.', '[.]')}(\d+)\.",
        opened.shape(f"{blocks}0.intermediate.dense.weight", 2)[0],
        declared=side if isinstance(side, int) else None,
        heads=config_json.get("num_attention_heads"),
    )
    actual = {
        "hidden_size": sizes["embed_dim"],
        "num_hidden_layers": sizes["depth"],
        "num_channels": sizes["in_chans"],
        "intermediate_size": sizes["mlp_dim"],
    }
    check_sizes(opened, actual)
    image = ViTConfig(
        **sizes,
        num_classes=opened.rows("classifier.weight"),
        qkv_bias=f"{prefix}{QKV.removesuffix('weight')}bias" in file,
        act=read_activation(opened),
        norm_eps=float(config_json.get("layer_norm_eps", 1e-6)),
    )
    time = f"{prefix}embeddings.time_embeddings"
    attention_type = timesformer.detect_attention_type(
        file, time, f"{blocks}0.temporal_dense.weight"
    )
    declared_type = config_json.get("attention_type", "divided_space_time")
    if config_json and ATTENTION_TYPES.get(declared_type) != attention_type:
        raise WeightsError(
            f"{opened.path.with_name('config.json')}: `attention_type` is "
            f"`{declared_type}`, but the tensors are those of {attention_type} "
            "attention. One of the two belongs to another model; nothing was loaded."
        )
    if time in file:
        frames = timesformer.read_num_frames(opened, time)
    else:
        frames = int(config_json.get("num_frames", timesformer.FRAMES))
    return timesformer.inflate_config(image, attention_type, frames)


def mappings(config: TimeSformerConfig) -> list[TensorMapping]:
    return _mappings(config, PREFIXES[0] if config.num_classes else PREFIXES[1])


def _mappings(config: TimeSformerConfig, prefix: str) -> list[TensorMapping]:
    rules = [
        copy(ours, f"{prefix}{EMBEDDINGS[ours]}") for ours in ("cls_token", "pos_embed")
    ]
    if config.has_time_positions:
        rules.append(copy("time_embed", f"{prefix}{EMBEDDINGS['time_embed']}"))
    layers = {
        name: f"{prefix}{EMBEDDINGS[name]}" for name in ("patch_embed.proj", "norm")
    }
    for index in range(config.depth):
        for ours, theirs in PARTS.items():
            if config.attention_type == "divided" or not ours.startswith("temporal"):
                foreign = f"{prefix}encoder.layer.{index}.{theirs}"
                layers[f"blocks.{index}.{ours}"] = foreign
    if config.num_classes:
        layers["head"] = "classifier"
    for ours, theirs in layers.items():
        bias = config.qkv_bias or not ours.endswith("attn.qkv")
        rules += copy_layer(ours, theirs, bias=bias)
    return rules


def make_output(spec: ModelSpec[TimeSformerConfig]) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    notes = timesformer.find_differences(
        config, "Hugging Face", act=None, norm_eps=None
    )
    if config.attention_type == "space":
        notes.append(
            "Hugging Face answers for every frame, this model for the mean of their "
            "class tokens: average before its last norm"
        )
    else:
        notes.append(
            f"Hugging Face takes clips of {config.num_frames} frames only, this model "
            "of any number"
        )
    hf_types = {ours: theirs for theirs, ours in ATTENTION_TYPES.items()}
    head = "ForVideoClassification" if config.num_classes else "Model"
    fields: dict[str, Any] = {
        "architectures": [f"Timesformer{head}"],
        "model_type": "timesformer",
        "attention_type": hf_types[config.attention_type],
        "num_frames": config.num_frames,
        "image_size": config.image_hw[0],
        "patch_size": config.patch_hw[0],
        "num_channels": config.in_chans,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": ACTIVATION_NAMES[config.act],
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "drop_path_rate": 0,
    }
    fields |= head_fields(spec)
    pixels = preprocessor.write(spec.preprocess, notes)
    # The image classes take single images; this one takes the frames of a clip.
    pixels["image_processor_type"] = "VideoMAEImageProcessor"
    return LayoutOutput(
        sidecar_files={"config.json": fields, "preprocessor_config.json": pixels},
        notes=tuple(notes),
    )


def _prefix(opened: LayoutInput) -> str | None:
    return next((at for at in PREFIXES if f"{at}{QKV}" in opened.file), None)


LAYOUT = Layout(
    name="huggingface_timesformer",
    title="Hugging Face TimeSformer",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    class_token_row="with",
)
