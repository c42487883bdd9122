"""Hugging Face's layout: config.json, model.safetensors, preprocessor_config.json.

Types vit, deit, dinov2, dinov2_with_registers, vit_msn, ijepa and vit_mae (encoder).
Missing fields of config.json have transformers' defaults. Written names are those on
the hub, which every version of transformers loads.
"""

from typing import Any, Literal

from vitral.errors import WeightsError
from vitral.layers import Activation
from vitral.models import DeiTConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts.huggingface import names, preprocessor
from vitral.weights.layouts.huggingface.config import (
    make_output,
    read_classes,
    resize_method,
    unsupported_reason,
)
from vitral.weights.layouts.huggingface.fields import check_config, check_sizes
from vitral.weights.layouts.layout import Layout
from vitral.weights.layouts.problem_type import read_problem_type
from vitral.weights.mapping import TensorMapping

TYPES = (
    "vit",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "vit_mae",
    "vit_msn",
    "ijepa",
)
SMALL_EPS = ("dinov2", "dinov2_with_registers", "vit_msn")
"""Types whose layer norms add 1e-6 where config.json does not say; others 1e-12."""
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
DROPPED = {
    r"(\w+\.)?embeddings\.mask_token$": "of the pre-training only",
    r"decoder\.": "of the pre-training only: it draws the hidden patches",
    r"(\w+\.)?pooler\.": "the head of this file looks at the class token itself",
}


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and not those of another type of model."""
    prefix = names.find_prefix(opened.file)
    # TimeSformer's names are the same but for its fused matrix.
    fused = f"{prefix}encoder.layer.0.attention.attention.qkv.weight"
    # BEiT's are the same but for its scales and its positions.
    beit = f"{prefix}encoder.layer.0.lambda_1" in opened.file
    supported = not beit and opened.config_json.get("model_type") in (None, *TYPES)
    return supported and prefix is not None and fused not in opened.file


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that config.json and the shapes describe."""
    prefix = names.find_prefix(opened.file)
    assert prefix is not None
    check_config(opened)
    config = _config(opened, prefix)
    generation = names.detect_generation(opened.file, prefix)
    hf_type = _detect_type(opened, prefix)
    return opened.source(
        LAYOUT.title,
        config,
        names.mappings(
            config, generation, prefix, names.find_block_prefix(opened.file, prefix)
        ),
        preprocessor.read(opened, hf_type, config.image_hw),
        drop=DROPPED,
        classes=read_classes(opened.config_json, config.num_classes),
        extra=read_problem_type(opened),
    )


def _config(opened: LayoutInput, prefix: str) -> ViTConfig:
    """Infer the settings: sizes from the shapes, the rest from config.json."""
    file, config_json = opened.file, opened.config_json
    hf_type = _detect_type(opened, prefix)
    dino = hf_type.startswith("dinov2")
    if not config_json:
        opened.notes.append(
            f"the settings of a {hf_type} model of Hugging Face assumed: there is no "
            "config.json beside the tensors"
        )
    generation = names.detect_generation(file, prefix)
    swiglu = any("mlp.weights_in." in n or "mlp.gate_proj." in n for n in file.names())
    parts = names.block_names(dino, generation, swiglu)
    blocks = f"{names.find_block_prefix(file, prefix)}{parts.block}"
    heads, declared = None, None
    if config_json:
        heads = config_json.get("num_attention_heads") or 12
        declared = config_json.get("image_size", 224)
    sizes = opened.vit_fields(
        f"{prefix}{names.STEM}",
        f"{prefix}embeddings.position_embeddings",
        rf"{blocks.replace('.', '[.]')}(\d+)\.",
        opened.shape(f"{blocks}0.{parts.fc2}.weight", 2)[1],
        prefix={"deit": 2, "ijepa": 0}.get(hf_type, 1),
        declared=declared,
        heads=heads,
    )
    qkv_bias = f"{blocks}0.{parts.qkv[0]}.bias" in file
    actual = {
        "hidden_size": sizes["embed_dim"],
        "num_hidden_layers": sizes["depth"],
        "num_channels": sizes["in_chans"],
        "qkv_bias": qkv_bias,
    }
    if not dino:
        actual["intermediate_size"] = sizes["mlp_dim"]
    check_sizes(opened, actual)
    two = "cls_classifier.weight" in file
    classes = opened.rows("cls_classifier.weight" if two else "classifier.weight")
    pooler = 0 if classes else opened.rows(f"{prefix}pooler.dense.weight")
    if pooler and config_json.get("pooler_act", "tanh") != "tanh":
        raise _unknown_value_error(opened, "pooler_act", "tanh")
    registers = f"{prefix}embeddings.register_tokens"
    deit: dict[str, Any] = {"distillation_head": two} if hf_type == "deit" else {}
    return (DeiTConfig if deit else ViTConfig)(
        **sizes,
        **deit,
        num_classes=classes,
        head_dim=config_json.get("head_dim") or 0,
        mlp="swiglu" if swiglu else "plain",
        reg_tokens=opened.shape(registers, 3)[1] if registers in file else 0,
        no_embed_reg=registers in file,
        class_token=hf_type != "ijepa",
        global_pool=_pool(hf_type, classes),
        position_resize=resize_method(hf_type),
        qkv_bias=qkv_bias,
        init_values=float(config_json.get("layerscale_value", 1.0)) if dino else None,
        act=read_activation(opened),
        norm_eps=float(
            config_json.get("layer_norm_eps", 1e-6 if hf_type in SMALL_EPS else 1e-12)
        ),
        representation_size=pooler,
    )


def _pool(hf_type: str, classes: int) -> Literal["token", "avg", "token_avg"]:
    if hf_type == "ijepa":
        return "avg"
    return "token_avg" if hf_type.startswith("dinov2") and classes else "token"


def _detect_type(opened: LayoutInput, prefix: str) -> str:
    """Return the type that config.json names, or the one that the tensors show."""
    if hf_type := opened.config_json.get("model_type"):
        return str(hf_type)
    if f"{prefix}embeddings.distillation_token" in opened.file:
        return "deit"
    if f"{prefix}embeddings.register_tokens" in opened.file:
        return "dinov2_with_registers"
    if f"{prefix}embeddings.cls_token" not in opened.file:
        return "ijepa"
    scale = f"{prefix}encoder.layer.0.layer_scale1.lambda1"
    return "dinov2" if scale in opened.file else "vit"


def read_activation(opened: LayoutInput) -> Activation:
    """Return the activation that config.json names."""
    name = opened.config_json.get("hidden_act", "gelu")
    if name not in ACTIVATIONS:
        raise _unknown_value_error(opened, "hidden_act", " or ".join(ACTIVATIONS))
    return ACTIVATIONS[name]


def _unknown_value_error(
    opened: LayoutInput, field: str, expected: str
) -> WeightsError:
    return WeightsError(
        f"{opened.path.with_name('config.json')}: `{field}` is "
        f"`{opened.config_json.get(field)}`, which vitral's model does not have; "
        f"expected {expected}. Its answers would be others, so nothing was loaded."
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    return names.mappings(config)


LAYOUT = Layout(
    name="huggingface",
    title="Hugging Face",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    same_names="encoders of detectors, which attend in windows",
    class_token_row="with",
)
