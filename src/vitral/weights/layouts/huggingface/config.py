"""JSON files of Hugging Face's layout, and models that it cannot hold."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from vitral.models import DeiTConfig, ModelConfig, ViTConfig
from vitral.weights.layouts import limits
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.fields import ACTIVATION_NAMES
from vitral.weights.layouts.huggingface.names import model_type, written_prefix
from vitral.weights.layouts.layout import LayoutOutput, ModelSpec
from vitral.weights.layouts.problem_type import problem_type_field
from vitral.weights.numerics import differences

ARCHITECTURES = {
    "vit": "ViT",
    "deit": "DeiT",
    "ijepa": "IJepa",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
}
"""Hugging Face's class, before `Model` or `ForImageClassification`."""


def unsupported_reason(config: ModelConfig) -> str:
    """Return why transformers' code cannot be this model; empty if it can."""
    dino = isinstance(config, ViTConfig) and config.init_values is not None
    ijepa = isinstance(config, ViTConfig) and not config.class_token
    pools = "token_avg" if dino and config.num_classes else "token"
    reasons: tuple[limits.Limit, ...] = (
        limits.VIT_OR_DEIT,
        limits.LEARNED_AT_STEM,
        (
            "its models have a class token with a position of its own",
            lambda it: it.class_token and it.no_embed_class,
        ),
        (
            "its models without a class token are I-JEPA's, which take the mean of "
            "the patches and have neither LayerScale nor a tanh layer",
            lambda it: (
                ijepa and (it.global_pool != "avg" or dino or it.representation_size)
            ),
        ),
        (
            "its DINOv2 with a head pools class token and patches side by side",
            lambda it: pools == "token_avg" != it.global_pool,
        ),
        (
            "its models look at the class token",
            lambda it: not ijepa and pools == "token" != it.global_pool,
        ),
        (
            "its registers come with LayerScale, as in DINOv2",
            lambda it: it.reg_tokens > 0 and not dino,
        ),
        limits.ROWLESS_REGISTERS,
        (
            "its gated perceptrons come with LayerScale, as in DINOv2",
            lambda it: it.mlp == "swiglu" and not dino,
        ),
        ("its DeiT has no LayerScale", lambda it: dino and isinstance(it, DeiTConfig)),
        (
            "its DINOv2 takes its perceptrons' width as a whole multiple of the "
            "model's",
            lambda it: dino and _mlp_ratio(it) is None,
        ),
        (
            "its DINOv2 resizes the positions of square grids only",
            lambda it: dino and it.grid.rows != it.grid.columns,
        ),
        (
            "it has no tanh layer before a head",
            lambda it: it.representation_size > 0 and (it.num_classes > 0 or dino),
        ),
        limits.NO_QK_NORM,
        limits.HEADS_WIDTH,
        limits.NO_PATCH_NORM,
        limits.NO_NORM_PRE,
        limits.LAYER_NORM,
        limits.NO_MLP_NORM,
        limits.KEY_BIAS,
        limits.NORM_BEFORE_POOL,
        limits.PROJ_BIAS,
    )
    return limits.first_reason(reasons, config)


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return both JSON files, DINOv2's mask token, and notes on the differences."""
    config = spec.config
    hf_type = model_type(config)
    notes = differences(
        config, "Hugging Face", act=None, norm_eps=None, resize=resize_method(hf_type)
    )
    if config.grid.rows != config.grid.columns:
        notes.append(
            "Hugging Face resizes the positions of square grids only: give it images "
            f"of {config.image_hw[0]} x {config.image_hw[1]} pixels"
        )
    new = {}
    if hf_type.startswith("dinov2"):
        name = f"{written_prefix(config)}embeddings.mask_token"
        new[name] = torch.zeros(1, config.embed_dim)
    return LayoutOutput(
        sidecar_files={
            "config.json": make_config_json(spec),
            "preprocessor_config.json": preprocessor.write(spec.preprocess, notes),
        },
        new=new,
        notes=tuple(notes),
    )


def make_config_json(spec: ModelSpec[ViTConfig]) -> dict[str, Any]:
    """Return the fields of config.json."""
    config = spec.config
    hf_type = model_type(config)
    head = "ForImageClassification" if config.num_classes else "Model"
    architecture = f"{ARCHITECTURES[hf_type]}{head}"
    if isinstance(config, DeiTConfig) and config.num_classes:
        architecture += "WithTeacher" if config.distillation_head else ""
    fields: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": hf_type,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "hidden_act": ACTIVATION_NAMES[config.act],
        "layer_norm_eps": config.norm_eps,
        "image_size": _one_or_two(config.image_hw),
        "patch_size": _one_or_two(config.patch_hw),
        "num_channels": config.in_chans,
        "qkv_bias": config.qkv_bias,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    }
    if config.init_values is None:
        fields["intermediate_size"] = config.mlp_dim
    else:
        fields |= {
            "mlp_ratio": _mlp_ratio(config),
            "use_swiglu_ffn": config.mlp == "swiglu",
            "layerscale_value": config.init_values,
        }
    if config.reg_tokens:
        fields["num_register_tokens"] = config.reg_tokens
    if config.representation_size:
        fields |= {
            "pooler_output_size": config.representation_size,
            "pooler_act": "tanh",
        }
    return fields | head_fields(spec)


def head_fields(spec: ModelSpec[Any]) -> dict[str, Any]:
    """Return the fields of config.json on the head: names of outputs, problem type."""
    num_classes = spec.config.num_classes
    fields = problem_type_field(spec.extra, num_classes)
    if not num_classes:
        return fields
    labels = spec.classes or tuple(f"LABEL_{n}" for n in range(num_classes))
    return fields | {
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "label2id": {label: n for n, label in enumerate(labels)},
    }


def read_classes(config_json: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the names of the head's classes; empty for placeholders (LABEL_0)."""
    labels = config_json.get("id2label") or {}
    if len(labels) != count:
        return ()
    names = tuple(str(labels.get(str(n), "")) for n in range(count))
    nameless = all(name == f"LABEL_{n}" for n, name in enumerate(names))
    return () if nameless or "" in names else names


def resize_method(hf_type: str) -> Literal["bicubic", "bicubic_antialias"]:
    registers = hf_type == "dinov2_with_registers"
    return "bicubic_antialias" if registers else "bicubic"


def _mlp_ratio(config: ViTConfig) -> int | None:
    """Return the integer that gives DINOv2's hidden width; None if there is none."""
    for ratio in range(1, 17):
        hidden = ratio * config.embed_dim
        if config.mlp == "swiglu":
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        if hidden == config.mlp_dim:
            return ratio
    return None


def _one_or_two(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)
