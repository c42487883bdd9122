"""Hugging Face's layout: config.json, model.safetensors, preprocessor_config.json.

Types vit, deit, dinov2, dinov2_with_registers and vit_mae (its encoder). Missing fields
of config.json have transformers' defaults. Written names are those on the hub, which
every version of transformers loads.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.models import DeiTConfig, ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.infer_config import (
    count_blocks,
    drop_reasons,
    infer_num_heads,
    infer_positions,
    require_shape,
    rows_or_zero,
)
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.config import (
    make_output,
    resize_method,
    unsupported_reason,
)
from vitral.weights.layouts.huggingface.names import (
    STEM,
    block_names,
    detect_generation,
    find_prefix,
)
from vitral.weights.layouts.huggingface.names import (
    mappings as vit_rules,
)
from vitral.weights.layouts.layout import Layout
from vitral.weights.mapping import TensorMapping

TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers", "vit_mae")
ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
DROPPED = {
    r"(\w+\.)?embeddings\.mask_token$": "of the pre-training only",
    r"decoder\.": "of the pre-training only: it draws the hidden patches",
    r"(\w+\.)?pooler\.": "the head of this file looks at the class token itself",
}


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and not those of another type of model."""
    hf_type = opened.config_json.get("model_type")
    supported = (
        hf_type in TYPES if hf_type is not None else "vitral" not in opened.config_json
    )
    prefix = find_prefix(opened.file)
    # TimeSformer's names are the same but for its fused matrix.
    fused = f"{prefix}encoder.layer.0.attention.attention.qkv.weight"
    return supported and prefix is not None and fused not in opened.file


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that config.json and the shapes describe.

    Raises:
        WeightsError: it has a part that no vitral model has.
    """
    notes = list(opened.notes)
    file = opened.file
    prefix = find_prefix(file)
    assert prefix is not None
    config = read_config(opened, prefix, notes)
    rules = vit_rules(config, detect_generation(file, prefix), prefix)
    foreign_names = {name for rule in rules for name in rule.theirs}
    hf_type = _detect_type(opened, prefix)
    return WeightsSource(
        layout=LAYOUT.title,
        file=file,
        config=config,
        mappings=tuple(rules),
        preprocess=preprocessor.read(
            opened.processor_json, hf_type, config.image_hw, notes
        ),
        dropped=drop_reasons(file, DROPPED, foreign_names.__contains__),
        classes=read_classes(opened.config_json, config.num_classes),
        notes=tuple(notes),
    )


def read_config(opened: LayoutInput, prefix: str, notes: list[str]) -> ViTConfig:
    """Infer the settings: sizes from the shapes, the rest from config.json."""
    file, config_json = opened.file, opened.config_json
    width, chans, rows, columns = require_shape(file, f"{prefix}{STEM}", 4)
    hf_type = _detect_type(opened, prefix)
    dino = hf_type.startswith("dinov2")
    if not config_json:
        notes.append(
            f"the settings of a {hf_type} model of Hugging Face assumed: there is no "
            "config.json beside the tensors"
        )
    generation = detect_generation(file, prefix)
    swiglu = any("mlp.weights_in." in n or "mlp.gate_proj." in n for n in file.names())
    names = block_names(dino, generation, swiglu)
    blocks = f"{prefix}{names.block}"
    depth = count_blocks(file, rf"{blocks.replace('.', '[.]')}(\d+)\.")
    mlp_dim = require_shape(file, f"{blocks}0.{names.fc2}.weight", 2)[1]
    registers = f"{prefix}embeddings.register_tokens"
    table = f"{prefix}embeddings.position_embeddings"
    with_grid = replace(opened, grid=opened.grid or _grid(config_json, (rows, columns)))
    prefix_rows = 2 if hf_type == "deit" else 1
    grid = infer_positions(
        with_grid, table, require_shape(file, table, 3)[1], (prefix_rows,), notes=notes
    ).grid
    two = "cls_classifier.weight" in file
    classes = rows_or_zero(
        file, "cls_classifier.weight" if two else "classifier.weight"
    )
    fields: dict[str, Any] = {"distillation_head": two} if hf_type == "deit" else {}
    heads = opened.num_heads or config_json.get("num_attention_heads")
    if heads is None:
        heads = (
            12
            if config_json
            else infer_num_heads(opened, width, depth, mlp_dim, notes=notes)
        )
    pooler = 0 if classes else rows_or_zero(file, f"{prefix}pooler.dense.weight")
    if pooler and config_json.get("pooler_act", "tanh") != "tanh":
        raise _unknown_value_error(opened, "pooler_act", "tanh")
    return (DeiTConfig if hf_type == "deit" else ViTConfig)(
        image_size=(grid.rows * rows, grid.columns * columns),
        patch_size=(rows, columns),
        in_chans=chans,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        head_dim=config_json.get("head_dim") or 0,
        mlp_dim=mlp_dim,
        mlp="swiglu" if swiglu else "plain",
        reg_tokens=require_shape(file, registers, 3)[1] if registers in file else 0,
        no_embed_reg=registers in file,
        global_pool="token_avg" if dino and classes else "token",
        position_resize=resize_method(hf_type),
        qkv_bias=f"{blocks}0.{names.qkv[0]}.bias" in file,
        init_values=float(config_json.get("layerscale_value", 1.0)) if dino else None,
        act=read_activation(opened),
        norm_eps=float(config_json.get("layer_norm_eps", 1e-6 if dino else 1e-12)),
        representation_size=pooler,
        **fields,
    )


def _detect_type(opened: LayoutInput, prefix: str) -> str:
    """Return the type that config.json names, or the one that the tensors show."""
    if hf_type := opened.config_json.get("model_type"):
        return str(hf_type)
    if f"{prefix}embeddings.distillation_token" in opened.file:
        return "deit"
    if f"{prefix}embeddings.register_tokens" in opened.file:
        return "dinov2_with_registers"
    scale = f"{prefix}encoder.layer.0.layer_scale1.lambda1"
    return "dinov2" if scale in opened.file else "vit"


def _grid(config_json: Mapping[str, Any], patch: tuple[int, int]) -> Grid | None:
    if not config_json:
        return None
    size = config_json.get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return Grid(height // patch[0], width // patch[1])


def read_activation(opened: LayoutInput) -> Literal["gelu", "gelu_tanh"]:
    """Return the activation that config.json names.

    Raises:
        WeightsError: it is not supported.
    """
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


def read_classes(config_json: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the names of the head's classes; empty for placeholders (LABEL_0)."""
    labels = config_json.get("id2label", {})
    if len(labels) != count:
        return ()
    names = tuple(str(labels.get(str(n), "")) for n in range(count))
    nameless = all(name == f"LABEL_{n}" for n, name in enumerate(names))
    return () if nameless or "" in names else names


def mappings(config: ModelConfig) -> list[TensorMapping]:
    assert isinstance(config, ViTConfig)
    return vit_rules(config)


LAYOUT = Layout(
    name="huggingface",
    title="Hugging Face",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
