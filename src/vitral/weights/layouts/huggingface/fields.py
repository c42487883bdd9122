"""Kinds of the fields of Hugging Face's JSON files, checked before they are used."""

from collections.abc import Mapping
from typing import Any

from vitral.layers import Activation
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts import json_fields
from vitral.weights.layouts.json_fields import (
    COUNT,
    COUNTS,
    DEVIATIONS,
    FLAG,
    NUMBER,
    OBJECT,
    POSITIVE,
    SHARE,
    SIDES,
    SIZE,
    STATISTICS,
    TEXT,
    TEXTS,
    WHOLE,
    Kind,
    optional,
)

ACTIVATION_NAMES: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
}
"""Written values of `hidden_act`."""
CONFIG: dict[str, Kind] = {
    "model_type": TEXT,
    "architectures": optional(TEXTS),
    "id2label": optional(OBJECT),
    "label2id": optional(OBJECT),
    "num_labels": WHOLE,
    **dict.fromkeys(
        (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_channels",
            "num_frames",
            "embedding_size",
            "num_groups",
            "output_stride",
        ),
        COUNT,
    ),
    "image_size": SIDES,
    "patch_size": SIDES,
    "hidden_act": TEXT,
    "attention_type": TEXT,
    "layer_type": TEXT,
    "global_padding": optional(TEXT),
    "embedding_dynamic_padding": FLAG,
    "pooler_act": TEXT,
    "pooler_output_size": optional(COUNT),
    "head_dim": optional(COUNT),
    "num_register_tokens": WHOLE,
    "layer_norm_eps": POSITIVE,
    "layerscale_value": NUMBER,
    "mlp_ratio": POSITIVE,
    "qkv_bias": FLAG,
    "rope_theta": POSITIVE,
    **dict.fromkeys(("query_bias", "key_bias", "value_bias", "proj_bias"), FLAG),
    **dict.fromkeys(("mlp_bias", "use_gated_mlp"), FLAG),
    "use_swiglu_ffn": FLAG,
    "use_absolute_position_embeddings": FLAG,
    "use_relative_position_bias": FLAG,
    "use_shared_relative_position_bias": FLAG,
    "use_mean_pooling": FLAG,
    "use_head": FLAG,
    "is_native": FLAG,
    "rms_norm_eps": POSITIVE,
    "layer_scale_init_value": NUMBER,
    "width_factor": POSITIVE,
    "depths": COUNTS,
    "hidden_sizes": COUNTS,
    **dict.fromkeys(
        ("attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate"), SHARE
    ),
}
"""Fields of config.json; others do not change the function."""
PROCESSOR: dict[str, Kind] = {
    "image_processor_type": TEXT,
    "feature_extractor_type": TEXT,
    **dict.fromkeys(
        ("do_resize", "do_center_crop", "do_rescale", "do_normalize"), FLAG
    ),
    "size": SIZE,
    "crop_size": SIZE,
    "resample": WHOLE,
    "rescale_factor": POSITIVE,
    "image_mean": STATISTICS,
    "image_std": DEVIATIONS,
}
"""Fields of preprocessor_config.json; null stands for the default."""
PROCESSOR_FILE = "preprocessor_config.json"


def check_config(opened: LayoutInput) -> None:
    """Refuse a field of config.json that has a value of another kind.

    Raises:
        WeightsError: a field is of another kind.
    """
    file = opened.path.with_name("config.json")
    json_fields.check_fields(file, opened.config_json, CONFIG)


def check_sizes(opened: LayoutInput, actual: Mapping[str, Any]) -> None:
    """Refuse sizes in config.json that the tensors contradict.

    Args:
        actual: sizes of the tensors, by field.
    """
    declared = opened.config_json
    pairs = {name: (_pair(declared.get(name)), it) for name, it in actual.items()}
    json_fields.check_agreement(opened.path.with_name("config.json"), pairs)


def read_processor(opened: LayoutInput) -> dict[str, Any]:
    """Return the fields of preprocessor_config.json, without those that are null.

    Raises:
        WeightsError: a field is of another kind.
    """
    given = {
        name: value
        for name, value in opened.processor_json.items()
        if value is not None
    }
    json_fields.check_fields(opened.path.with_name(PROCESSOR_FILE), given, PROCESSOR)
    return given


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
