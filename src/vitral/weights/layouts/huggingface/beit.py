"""Hugging Face's BEiT: BeitModel, BeitForImageClassification, and the pre-trained one.

Written names are those on the hub, which every version of transformers loads.
"""

from functools import partial
from typing import Any, Literal

from vitral.errors import WeightsError
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource, patches_of
from vitral.weights.layouts import json_fields, limits
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
from vitral.weights.layouts.shared import beit
from vitral.weights.mapping import (
    TensorMapping,
    concat,
    copy,
    copy_layer,
)
from vitral.weights.numerics import differences

PREFIXES = ("beit.", "")
STEM = "embeddings.patch_embeddings.projection"
SHARED = "encoder.relative_position_bias.relative_position_bias_table"
TABLE = "attention.attention.relative_position_bias.relative_position_bias_table"
DROPPED = {
    r"(beit\.)?embeddings\.mask_token$": "of the pre-training only",
    r"lm_head\.": "of the pre-training only",
    r".*relative_position_index$": "computed: the offset of every pair of patches",
}
POOLS = (("token", False), ("avg", True))
"""Pooling, and whether the norm comes after it, that transformers' model has."""
LIMITS: tuple[limits.Limit, ...] = (
    *beit.LIMITS,
    (
        "it pools the class token after its norm, or norms the mean of the patches",
        lambda it: (it.global_pool, it.norm_after_pool) not in POOLS,
    ),
    limits.SQUARE_PATCHES,
    ("it has one side of images", lambda it: it.image_hw[0] != it.image_hw[1]),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and not those of another type of model."""
    known = opened.config_json.get("model_type") in (None, "beit")
    return known and _prefix(opened) is not None


def _prefix(opened: LayoutInput) -> str | None:
    for prefix in PREFIXES:
        tables = (f"{prefix}{SHARED}", f"{prefix}encoder.layer.0.{TABLE}")
        stem = f"{prefix}{STEM}.weight" in opened.file
        if stem and any(it in opened.file for it in tables):
            return prefix
    return None


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that config.json and the shapes describe."""
    prefix = _prefix(opened)
    assert prefix is not None
    check_config(opened)
    table = f"{prefix}encoder.layer.0.{TABLE}"
    shared = f"{prefix}{SHARED}"
    for name, what in (
        (f"{prefix}embeddings.position_embeddings", "absolute positions as well"),
        (shared if table in opened.file else "", "positions that its blocks share too"),
        ("decode_head.classifier.weight", "a head for segmentation"),
    ):
        if name in opened.file:
            raise WeightsError(
                f"{opened.path}: this BEiT has {what} ({name}), which vitral's has "
                "not. Use transformers for it."
            )
    is_shared = table not in opened.file
    norm = _norm(opened, prefix)
    config = _config(opened, prefix, shared if is_shared else table, norm)
    if is_shared:
        opened.notes.append(beit.SHARED)
    return opened.source(
        LAYOUT.title,
        config,
        _mappings(config, prefix, norm, shared if is_shared else ""),
        preprocessor.read(opened, "beit", config.image_hw),
        drop=DROPPED,
        classes=read_classes(opened.config_json, config.num_classes),
        extra=read_problem_type(opened),
    )


def _norm(opened: LayoutInput, prefix: str) -> str:
    """Return the name of the last norm: after pooling, or before it."""
    pooler, own = f"{prefix}pooler.layernorm", f"{prefix}layernorm"
    declared = opened.config_json.get("use_mean_pooling")
    found = pooler if f"{pooler}.weight" in opened.file else own
    if found == own and f"{own}.weight" not in opened.file:
        opened.notes.append(
            "a file of the pre-training: the mean of the patches is pooled after the "
            "norm, and `global_pool=token` takes the class token"
        )
        return "layernorm"
    json_fields.check_agreement(
        opened.path.with_name("config.json"),
        {"use_mean_pooling": (declared, found == pooler)},
    )
    return found


def _config(opened: LayoutInput, prefix: str, table: str, norm: str) -> ViTConfig:
    fields, first = opened.config_json, f"{prefix}encoder.layer.0."
    width, chans, *patch = opened.shape(f"{prefix}{STEM}.weight", 4)
    heads = opened.shape(table, 2)[1]
    opened.choose_num_heads(heads)
    blocks = f"{prefix}encoder.layer.".replace(".", "[.]")
    size = fields.get("image_size", 224) if fields else None
    declared = None if size is None else patches_of(size, patch)
    grid = beit.read_window(opened, table, declared)
    if grid.rows != grid.columns:
        raise WeightsError(
            f"{opened.path}: a grid of {grid.rows} x {grid.columns} patches, whose "
            "table transformers reads with rows and columns exchanged. vitral does "
            "not repeat that: use transformers for it."
        )
    mlp_dim = opened.rows(f"{first}intermediate.dense.weight")
    config = ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=opened.rows("classifier.bias", 1),
        embed_dim=width,
        depth=opened.count_blocks(blocks + r"(\d+)\."),
        num_heads=heads,
        mlp_dim=mlp_dim,
        global_pool=_pool(opened, prefix, norm),
        position="relative_bias",
        position_resize="bilinear",
        k_bias=False,
        init_values=0.1 if f"{first}lambda_1" in opened.file else None,
        act=read_activation(opened),
        norm_eps=float(fields.get("layer_norm_eps", 1e-12)),
        norm_after_pool=norm.endswith("pooler.layernorm"),
    )
    check_sizes(
        opened,
        {
            "hidden_size": width,
            "num_hidden_layers": config.depth,
            "num_attention_heads": heads,
            "num_channels": chans,
            "intermediate_size": mlp_dim,
            "patch_size": patch[0],
        },
    )
    return config


def _pool(opened: LayoutInput, prefix: str, norm: str) -> Literal["token", "avg"]:
    own = norm == f"{prefix}layernorm" and "lm_head.weight" not in opened.file
    return "token" if own else "avg"


def mappings(config: ViTConfig) -> list[TensorMapping]:
    prefix = PREFIXES[0] if config.num_classes else ""
    norm = "pooler.layernorm" if config.norm_after_pool else "layernorm"
    return _mappings(config, prefix, f"{prefix}{norm}", "")


def _mappings(
    config: ViTConfig, prefix: str, norm: str, shared: str
) -> list[TensorMapping]:
    rules = [
        *copy_layer("patch_embed.proj", f"{prefix}{STEM}"),
        copy("cls_token", f"{prefix}embeddings.cls_token"),
        *copy_layer("fc_norm" if config.norm_after_pool else "norm", norm),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}.", f"{prefix}encoder.layer.{index}."
        for mine, other in (
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            rules += copy_layer(f"{ours}{mine}", f"{theirs}{other}")
        if config.init_values is not None:
            for n in (1, 2):
                rules.append(copy(f"{ours}ls{n}.gamma", f"{theirs}lambda_{n}"))
        names = [
            f"{theirs}attention.attention.{it}" for it in ("query", "key", "value")
        ]
        weights = [f"{it}.weight" for it in names]
        rules.append(concat(f"{ours}attn.qkv.weight", weights))
        rules += beit.map_biases(index, *(f"{it}.bias" for it in names[::2]))
        rules.append(beit.map_table(index, shared or f"{theirs}{TABLE}"))
    return rules + (copy_layer("head", "classifier") if config.num_classes else [])


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    notes = differences(
        config, "Hugging Face", act=None, norm_eps=None, resize="bilinear"
    )
    kind = "BeitForImageClassification" if config.num_classes else "BeitModel"
    fields: dict[str, Any] = {
        "architectures": [kind],
        "model_type": "beit",
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_chans,
        "image_size": config.image_hw[0],
        "patch_size": config.patch_hw[0],
        "hidden_act": ACTIVATION_NAMES[config.act],
        "layer_norm_eps": config.norm_eps,
        "layer_scale_init_value": config.init_values or 0.0,
        "use_mean_pooling": config.norm_after_pool,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": False,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    }
    fields |= head_fields(spec)
    return LayoutOutput(
        sidecar_files={
            "config.json": fields,
            "preprocessor_config.json": preprocessor.write(spec.preprocess, notes),
        },
        notes=tuple(notes),
    )


LAYOUT = Layout(
    name="huggingface_beit",
    title="Hugging Face BEiT",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
