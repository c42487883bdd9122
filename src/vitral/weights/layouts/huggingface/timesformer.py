"""Hugging Face's TimeSformer: config.json, model.safetensors, preprocessor_config.json.

`TimesformerForVideoClassification`, or `TimesformerModel` without a head. With space
attention that class gives logits per frame; vitral, like the released code, gives one
answer per clip, from the mean of the frames' class tokens.
"""

from dataclasses import replace
from typing import Any

from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.models import AttentionType, ModelConfig, TimeSformerConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.infer_config import (
    count_blocks,
    infer_num_heads,
    infer_positions,
    require_shape,
)
from vitral.weights.layouts.facebook import (
    FRAMES,
    detect_attention_type,
    find_differences,
    inflate_config,
    read_num_frames,
    unsupported_structure,
)
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.config import label_fields
from vitral.weights.layouts.huggingface.vit import read_activation, read_classes
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping, copy

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


def detect(opened: LayoutInput) -> bool:
    """Return whether a block has Hugging Face's names and a fused qkv matrix."""
    return "vitral" not in opened.config_json and _prefix(opened) is not None


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that the tensors and config.json describe.

    Raises:
        WeightsError: config.json names an unknown attention or activation.
    """
    prefix = _prefix(opened)
    assert prefix is not None
    notes, config_json = list(opened.notes), opened.config_json
    config = _config(opened, prefix, notes)
    return WeightsSource(
        layout=LAYOUT.title,
        file=opened.file,
        config=config,
        mappings=tuple(_mappings(config, prefix)),
        preprocess=preprocessor.read(
            opened.processor_json, "timesformer", config.image_hw, notes
        ),
        classes=read_classes(config_json, config.num_classes),
        notes=tuple(notes),
    )


def _config(opened: LayoutInput, prefix: str, notes: list[str]) -> TimeSformerConfig:
    file, config_json = opened.file, opened.config_json
    if not config_json:
        notes.append(
            "the settings of a TimeSformer of Hugging Face assumed: there is no "
            "config.json beside the tensors"
        )
    width, chans, *patch = require_shape(file, f"{prefix}{STEM}", 4)
    blocks = f"{prefix}encoder.layer."
    depth = count_blocks(file, rf"{blocks.replace('.', '[.]')}(\d+)\.")
    mlp_dim = require_shape(file, f"{blocks}0.intermediate.dense.weight", 2)[0]
    table = f"{prefix}embeddings.position_embeddings"
    side = config_json.get("image_size")
    declared = (
        Grid(side // patch[0], side // patch[1]) if isinstance(side, int) else None
    )
    with_grid = replace(opened, grid=opened.grid or declared)
    grid = infer_positions(
        with_grid, table, require_shape(file, table, 3)[1], (1,), notes=notes
    ).grid
    heads = opened.num_heads or config_json.get("num_attention_heads")
    head = "classifier.weight"
    image = ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=require_shape(file, head, 2)[0] if head in file else 0,
        embed_dim=width,
        depth=depth,
        num_heads=heads or infer_num_heads(opened, width, depth, mlp_dim, notes=notes),
        mlp_dim=mlp_dim,
        qkv_bias=f"{prefix}{QKV.removesuffix('weight')}bias" in file,
        act=read_activation(opened),
        norm_eps=float(config_json.get("layer_norm_eps", 1e-6)),
    )
    time = f"{prefix}embeddings.time_embeddings"
    attention_type = detect_attention_type(
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
        frames = read_num_frames(file, time, notes)
    else:
        frames = int(config_json.get("num_frames", FRAMES))
    return inflate_config(image, attention_type, frames)


def mappings(config: ModelConfig) -> list[TensorMapping]:
    assert isinstance(config, TimeSformerConfig)
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
        no_bias = ours.endswith("attn.qkv") and not config.qkv_bias
        for part in ("weight",) if no_bias else ("weight", "bias"):
            rules.append(copy(f"{ours}.{part}", f"{theirs}.{part}"))
    return rules


def unsupported_reason(config: ModelConfig) -> str:
    reason = unsupported_structure(config)
    if reason:
        return reason
    assert isinstance(config, TimeSformerConfig)
    sides = (config.image_hw, config.patch_hw)
    square = all(height == width for height, width in sides)
    return "" if square else "its frames and patches are square"


def make_output(spec: ModelSpec) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    assert isinstance(config, TimeSformerConfig)
    notes = find_differences(config, "Hugging Face", act=None, norm_eps=None)
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
        "hidden_act": "gelu" if config.act == "gelu" else "gelu_pytorch_tanh",
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "drop_path_rate": 0,
    }
    fields |= label_fields(config, spec.classes)
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
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
