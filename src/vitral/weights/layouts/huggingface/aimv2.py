"""Hugging Face's Aimv2VisionModel without its pooling head: read and written.

transformers has no classifier for it: its features are those of the patches.
"""

from functools import partial

from vitral.errors import WeightsError
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.huggingface import preprocessor
from vitral.weights.layouts.huggingface.fields import check_config, check_sizes
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.shared import aimv2
from vitral.weights.mapping import TensorMapping, concat, copy, copy_layer, reshape
from vitral.weights.numerics import differences

STEM = "embeddings.patch_embed.weight"
TABLE = "embeddings.position_embedding.weight"
LIMITS: tuple[limits.Limit, ...] = (
    *aimv2.LIMITS,
    ("it has no head", lambda it: it.num_classes > 0),
    ("it pools the mean, if at all", lambda it: it.global_pool != "avg"),
    limits.SQUARE_PATCHES,
    limits.SQUARE_TABLES,
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and not those of another type of model."""
    known = opened.config_json.get("model_type") in (None, "aimv2_vision_model")
    own = (STEM, "embeddings.rms_norm.weight", "encoder.layers.0.ffn.up_proj.weight")
    return known and all(it in opened.file for it in own)


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that config.json and the shapes describe."""
    check_config(opened)
    fields, file = opened.config_json, opened.path.with_name("config.json")
    if "head.k_proj.weight" in opened.file:
        raise WeightsError(
            f"{opened.path}: this Aimv2VisionModel has a pooling head "
            "(head.k_proj.weight), which vitral's has not. Use transformers "
            "for it, or save the model with `use_head` false: the same patches."
        )
    if TABLE not in opened.file:
        raise WeightsError(
            f"{opened.path}: this Aimv2VisionModel computes its positions for "
            "images of any size (`is_native`), which vitral's does not. Use "
            "transformers for it."
        )
    for name, wanted in (("hidden_act", "silu"), ("qkv_bias", False)):
        if fields.get(name, wanted) != wanted:
            shown = str(wanted).lower()
            raise json_fields.refusal(
                file, name, fields[name], f"{shown}, which vitral's model has"
            )
    config = _config(opened)
    check_sizes(
        opened,
        {
            "hidden_size": config.embed_dim,
            "num_hidden_layers": config.depth,
            "num_channels": config.in_chans,
            "intermediate_size": config.mlp_dim,
            "patch_size": config.patch_hw[0],
            "mlp_bias": False,
        },
    )
    return opened.source(
        LAYOUT.title,
        config,
        mappings(config),
        preprocessor.read(opened, "aimv2", config.image_hw),
    )


def _config(opened: LayoutInput) -> ViTConfig:
    fields = opened.config_json
    width, chans, *patch = opened.shape(STEM, 4)
    grid = opened.infer_positions(TABLE, opened.shape(TABLE, 2)[0], (0,))
    mlp_dim = opened.rows("encoder.layers.0.ffn.up_proj.weight")
    depth = opened.count_blocks(r"encoder[.]layers[.](\d+)\.")
    declared = fields.get("num_attention_heads", 8) if fields else None
    heads = opened.choose_num_heads(declared)
    return ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=0,
        embed_dim=width,
        depth=depth,
        num_heads=heads or opened.infer_num_heads(width, depth, mlp_dim),
        mlp_dim=mlp_dim,
        mlp="swiglu",
        norm="rms",
        norm_eps=float(fields.get("rms_norm_eps", aimv2.NORM_EPS)),
        class_token=False,
        global_pool="avg",
        position_resize="bicubic_antialias",
        qkv_bias=False,
        proj_bias=False,
        act="gelu",
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    """Return the mapping of every tensor."""
    shape = (config.grid.rows * config.grid.columns, config.embed_dim)
    rules = [
        *copy_layer("patch_embed.proj", STEM.removesuffix(".weight")),
        copy("patch_embed.norm.weight", "embeddings.rms_norm.weight"),
        copy("norm.weight", "rms_norm.weight"),
        reshape("pos_embed", TABLE, (1, *shape), shape),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}.", f"encoder.layers.{index}."
        for mine, other in (
            ("norm1", "rms_norm1"),
            ("norm2", "rms_norm2"),
            ("attn.proj", "attention.out_proj"),
            ("mlp.fc2", "ffn.down_proj"),
        ):
            rules.append(copy(f"{ours}{mine}.weight", f"{theirs}{other}.weight"))
        weights = [f"{theirs}attention.{it}_proj.weight" for it in "qkv"]
        rules.append(concat(f"{ours}attn.qkv.weight", weights))
        first = [f"{theirs}ffn.{it}_proj.weight" for it in ("gate", "up")]
        rules.append(concat(f"{ours}mlp.fc1.weight", first))
    return rules


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return config.json, preprocessor_config.json, and notes on the differences."""
    config = spec.config
    notes = differences(config, "Hugging Face", act=None, norm_eps=None)
    notes.append(
        "transformers' AIMv2 takes images of one size only, and pools nothing: its "
        "last hidden state has this model's patches"
    )
    fields = {
        "architectures": ["Aimv2VisionModel"],
        "model_type": "aimv2_vision_model",
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_chans,
        "image_size": config.image_hw[0],
        "patch_size": config.patch_hw[0],
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "attention_dropout": 0.0,
        **dict.fromkeys(("qkv_bias", "mlp_bias", "use_head", "is_native"), False),
    }
    return LayoutOutput(
        sidecar_files={
            "config.json": fields,
            "preprocessor_config.json": preprocessor.write(spec.preprocess, notes),
        },
        notes=tuple(notes),
    )


LAYOUT = Layout(
    name="huggingface_aimv2",
    title="Hugging Face AIMv2",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
