"""BEiT in timm's names, which are those of its authors: a file alone, or a folder."""

import re
from functools import partial
from typing import Any

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource, patches_of
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.shared import beit
from vitral.weights.layouts.timm import settings
from vitral.weights.layouts.timm.layout import read_preprocess
from vitral.weights.mapping import TensorMapping, copy, copy_layer
from vitral.weights.numerics import HALF, differences

TABLE = "blocks.0.attn.relative_position_bias_table"
SHARED = "rel_pos_bias.relative_position_bias_table"
NAME = re.compile(r"beit(v2)?_(base|large)_patch16_\d+")
ARGUMENTS: dict[str, json_fields.Kind] = {
    **settings.ENCODER,
    "num_heads": json_fields.COUNT,
    "init_values": json_fields.optional(json_fields.NUMBER),
    "head_init_scale": json_fields.NUMBER,
    "use_rel_pos_bias": json_fields.FLAG,
    "use_shared_rel_pos_bias": json_fields.FLAG,
    "use_fc_norm": json_fields.optional(json_fields.FLAG),
    "global_pool": settings.one_of("token", "avg"),
    "norm_layer": settings.one_of(None),
    **dict.fromkeys(
        ("use_abs_pos_emb", "swiglu_mlp", "scale_mlp"), settings.one_of(False)
    ),
}
DROPPED = {
    r"mask_token$": "of the pre-training only",
    r"lm_head\.": "of the pre-training only",
    r"cls_pt_layers\.": "of the pre-training only",
    r".*relative_position_index$": "computed: the offset of every pair of patches",
}
LIMITS: tuple[limits.Limit, ...] = (
    *beit.LIMITS,
    (
        "it pools one token or the mean",
        lambda it: it.global_pool not in ("token", "avg"),
    ),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names: one table of offsets, or one a block."""
    own = ("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
    tables = any(it in opened.file for it in (TABLE, SHARED))
    return tables and all(it in opened.file for it in own)


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that the tensors and config.json describe."""
    settings.check_config(opened)
    for name, what in (
        ("pos_embed", "absolute positions as well"),
        ("blocks.0.mlp.fc1_g.weight", "a gated perceptron"),
        ("blocks.0.mlp.norm.weight", "a norm inside its perceptron"),
    ):
        if name in opened.file:
            raise WeightsError(
                f"{opened.path}: this BEiT has {what} ({name}), which no published "
                "one has and vitral's has not. Use timm for it."
            )
    if TABLE in opened.file and SHARED in opened.file:
        raise WeightsError(
            f"{opened.path}: this BEiT has a table of relative positions in every "
            f"block and one that they share ({SHARED}), which vitral's has not. Use "
            "timm for it."
        )
    config = _config(opened)
    shared = SHARED in opened.file
    if shared:
        opened.notes.append(beit.SHARED)
    return opened.source(
        LAYOUT.title,
        config,
        _mappings(config, shared),
        _preprocess(opened, config),
        drop=DROPPED,
        classes=settings.read_labels(opened, config.num_classes),
    )


def _config(opened: LayoutInput) -> ViTConfig:
    file = opened.file
    given = settings.read_arguments(opened, ARGUMENTS)
    width, chans, *patch = opened.shape("patch_embed.proj.weight", 4)
    table = TABLE if TABLE in file else SHARED
    heads = opened.shape(table, 2)[1]
    opened.choose_num_heads(heads)
    hidden = opened.shape("blocks.0.mlp.fc1.weight", 2)[0]
    biased = "blocks.0.attn.q_bias" in file
    actual = {
        "embed_dim": width,
        "depth": opened.count_blocks(r"blocks\.(\d+)\."),
        "in_chans": chans,
        "num_classes": opened.rows("head.bias", 1),
        "num_heads": heads,
        "qkv_bias": biased,
        "use_rel_pos_bias": table == TABLE,
        "use_shared_rel_pos_bias": table == SHARED,
        "hidden": hidden,
    }
    settings.check_arguments(opened, given, actual)
    grid = beit.read_window(opened, table, _declared(opened, given, patch))
    after = "fc_norm.weight" in file
    pool: Any = given.get("global_pool") or ("avg" if after else "token")
    if not opened.config_json and not after:
        opened.notes.append(
            "the class token is pooled, as there is a norm before pooling: the file "
            "does not say"
        )
    return ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=opened.rows("head.bias", 1),
        embed_dim=width,
        depth=actual["depth"],
        num_heads=heads,
        mlp_dim=hidden,
        global_pool=pool,
        position="relative_bias",
        position_resize="geometric",
        qkv_bias=biased,
        k_bias=not biased,
        init_values=0.1 if "blocks.0.gamma_1" in file else None,
        act="gelu",
        norm_after_pool=after,
    )


def _declared(
    opened: LayoutInput, given: dict[str, Any], patch: list[int]
) -> Grid | None:
    """Return the grid that config.json tells; None where it does not."""
    size = given.get("img_size")
    if size is None and opened.config_json:
        size = settings.read_pretrained(opened).get("input_size", (None,))[1:]
    return patches_of(size, patch) if size else None


def mappings(config: ViTConfig) -> list[TensorMapping]:
    """Return the mapping of every tensor."""
    return _mappings(config, shared=False)


def _mappings(config: ViTConfig, shared: bool) -> list[TensorMapping]:
    last = "fc_norm" if config.norm_after_pool else "norm"
    rules = [*copy_layer("patch_embed.proj"), copy("cls_token"), *copy_layer(last)]
    for index in range(config.depth):
        block = f"blocks.{index}."
        for part in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
            rules += copy_layer(f"{block}{part}")
        if config.init_values is not None:
            rules += [copy(f"{block}ls{n}.gamma", f"{block}gamma_{n}") for n in (1, 2)]
        rules.append(copy(f"{block}attn.qkv.weight"))
        if config.qkv_bias:
            biases = [f"{block}attn.{it}_bias" for it in "qv"]
            rules += beit.map_biases(index, *biases)
        own = f"{block}attn.relative_position_bias_table"
        rules.append(beit.map_table(index, SHARED if shared else own))
    return rules + (copy_layer("head") if config.num_classes else [])


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return the notes: the file is one for `load_state_dict` of timm's model."""
    notes = differences(spec.config, "timm", resize="geometric")
    return LayoutOutput(notes=tuple(notes))


def _preprocess(opened: LayoutInput, config: ViTConfig) -> Preprocess:
    if "mean" in settings.read_pretrained(opened):
        return read_preprocess(opened, config)
    opened.notes.append(
        "pixel mean and deviation of 0.5 assumed, as for BEiT; those of BEiT v2 are "
        "ImageNet's: the file does not say"
    )
    return Preprocess(
        image_size=config.image_hw,
        resize="crop",
        crop_fraction=0.9,
        interpolation="bicubic",
        antialias=True,
        mean=HALF,
        std=HALF,
    )


LAYOUT = Layout(
    name="timm_beit",
    title="timm BEiT",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
