"""EVA-01, EVA-02 and timm's own ViTs with EVA-02's rotary positions, in timm's names.

Keys have no bias. The smaller EVA-02 have fused and packed matrices, the larger ones a
norm inside their gated perceptrons.
"""

import re
from functools import partial
from typing import Any

from vitral.data import Preprocess
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource, patches_of
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.timm import settings
from vitral.weights.layouts.timm.layout import read_preprocess
from vitral.weights.mapping import TensorMapping, concat, copy, copy_layer
from vitral.weights.numerics import clip_crop, differences

NAME = re.compile(
    r"eva02_(tiny|small|base|large)_patch14_\d+|eva_giant_patch14_(clip_)?\d+"
    r"|vit_(medium|mediumd|betwixt|base)_patch16_rope_reg\d_gap_256"
)
SPLIT = "blocks.0.attn.q_proj.weight"
ARGUMENTS: dict[str, json_fields.Kind] = {
    **settings.ENCODER,
    "num_heads": json_fields.COUNT,
    "patch_drop_rate": json_fields.SHARE,
    "init_values": json_fields.optional(json_fields.NUMBER),
    "head_init_scale": json_fields.NUMBER,
    "class_token": json_fields.FLAG,
    "num_reg_tokens": json_fields.WHOLE,
    "global_pool": settings.one_of("token", "avg"),
    **dict.fromkeys(
        (
            "qkv_fused",
            "swiglu_mlp",
            "scale_mlp",
            "use_abs_pos_emb",
            "use_rot_pos_emb",
            "dynamic_img_size",
            "dynamic_img_pad",
        ),
        json_fields.FLAG,
    ),
    "use_fc_norm": json_fields.optional(json_fields.FLAG),
    "ref_feat_shape": (
        lambda it: it in (16, [16, 16], (16, 16)),
        "16 or [16, 16], which vitral's model has",
    ),
    "attn_type": settings.one_of("eva"),
    "rope_type": settings.one_of("cat"),
    "rope_grid_offset": settings.one_of(0, 0.0),
    "rope_grid_indexing": settings.one_of("ij"),
    "rope_temperature": settings.one_of(10_000, 10_000.0),
    "norm_layer": settings.one_of(None),
    **dict.fromkeys(
        (
            "no_embed_class",
            "qk_norm",
            "rope_rotate_half",
            "scale_attn_inner",
            "use_post_norm",
            "use_pre_transformer_norm",
        ),
        settings.one_of(False),
    ),
}
DROPPED = {
    r"mask_token$": "of the pre-training only",
    r"lm_head\.": "of the pre-training only",
    r"(rope|blocks\.\d+\.attn\.rope)\.": "computed: the angles of the positions",
    r".*relative_position_index$": "computed: the offset of every pair of patches",
}
LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    (
        "its positions are learned, EVA-02's as well, or EVA-02's angles alone",
        lambda it: (
            it.position not in ("learned_1d", "learned_rotary", "rotary_index")
            or it.position_at != "stem"
        ),
    ),
    (
        "its models with learned positions have a class token with a row, and no "
        "registers or LayerScale",
        lambda it: (
            it.position != "rotary_index"
            and (
                not it.class_token
                or it.no_embed_class
                or it.reg_tokens > 0
                or it.init_values is not None
            )
        ),
    ),
    (
        "its models without learned positions have registers and LayerScale, and no "
        "class token or gate",
        lambda it: (
            it.position == "rotary_index"
            and (
                it.class_token
                or not it.reg_tokens
                or it.init_values is None
                or it.mlp == "swiglu"
            )
        ),
    ),
    (
        "its gated perceptrons come with rotary positions, and plain ones without",
        lambda it: (
            it.position != "rotary_index"
            and (it.mlp == "swiglu") != (it.position == "learned_rotary")
        ),
    ),
    ("its keys have no bias", lambda it: it.qkv_bias and it.k_bias),
    (
        "its queries and values have biases",
        lambda it: not it.qkv_bias and it.position != "rotary_index",
    ),
    (
        "it pools one token or the mean",
        lambda it: it.global_pool not in ("token", "avg"),
    ),
    limits.NO_QK_NORM,
    limits.NO_TANH,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.PROJ_BIAS,
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, and config.json names no other model."""
    file = opened.file
    name = opened.config_json.get("architecture")
    known = name is None or (isinstance(name, str) and NAME.fullmatch(_bare(name)))
    biases = "blocks.0.attn.q_bias" in file or SPLIT in file
    eva = biases and "pos_embed" in file and "cls_token" in file
    rope = "cls_token" not in file and "pos_embed" not in file
    rope &= all(it in file for it in ("reg_token", "blocks.0.gamma_1"))
    others = ("blocks.0.attn.norm.weight", "blocks.0.attn.k_proj.bias")
    return (
        bool(known)
        and "patch_embed.proj.weight" in file
        and (eva or rope)
        and not any(it in file for it in others)
    )


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that the tensors and config.json describe."""
    settings.check_config(opened)
    config = _config(opened)
    return opened.source(
        LAYOUT.title,
        config,
        mappings(config),
        _preprocess(opened, config),
        drop=DROPPED,
        classes=settings.read_labels(opened, config.num_classes),
    )


def _config(opened: LayoutInput) -> ViTConfig:
    file = opened.file
    given = settings.read_arguments(opened, ARGUMENTS)
    width, chans, *patch = opened.shape("patch_embed.proj.weight", 4)
    mlp_dim = opened.shape("blocks.0.mlp.fc2.weight", 2)[1]
    packed = opened.rows("blocks.0.mlp.fc1.weight") == 2 * mlp_dim
    gated = packed or "blocks.0.mlp.fc1_g.weight" in file
    table, after = "pos_embed" in file, "fc_norm.weight" in file
    registers = opened.shape("reg_token", 3)[1] if "reg_token" in file else 0
    prefix = int("cls_token" in file) + registers
    actual = {
        "embed_dim": width,
        "depth": opened.count_blocks(r"blocks\.(\d+)\."),
        "in_chans": chans,
        "num_classes": opened.rows("head.bias", 1),
        "class_token": "cls_token" in file,
        "num_reg_tokens": registers,
        "swiglu_mlp": gated,
        "scale_mlp": "blocks.0.mlp.norm.weight" in file,
        "qkv_fused": SPLIT not in file,
        "use_abs_pos_emb": table,
        "use_rot_pos_emb": gated or not table,
        "hidden": mlp_dim,
    }
    settings.check_arguments(opened, given, actual)
    if table:
        rows = opened.shape("pos_embed", 3)[1]
        declared = settings.find_grid(opened, given, patch, (rows - prefix,))
        grid = opened.infer_positions("pos_embed", rows, (prefix,), declared)
    else:
        sides = [16 * side for side in patch]
        size = settings.read_pretrained(opened).get("input_size", sides)[-2:]
        grid = opened.grid or patches_of(given.get("img_size") or size, patch)
    heads = opened.choose_num_heads(given.get("num_heads"))
    rotary: Any = "learned_rotary" if table else "rotary_index"
    pool: Any = given.get("global_pool") or ("avg" if after else "token")
    biased = SPLIT in file or "blocks.0.attn.q_bias" in file
    return ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=actual["num_classes"],
        embed_dim=width,
        depth=actual["depth"],
        num_heads=heads or opened.infer_num_heads(width, actual["depth"], mlp_dim),
        mlp_dim=mlp_dim,
        mlp="swiglu" if gated else "plain",
        mlp_norm="blocks.0.mlp.norm.weight" in file,
        class_token="cls_token" in file,
        reg_tokens=registers,
        global_pool=pool,
        position=rotary if gated or not table else "learned_1d",
        position_resize="bicubic_antialias",
        qkv_bias=biased,
        k_bias=not biased,
        init_values=1e-5 if "blocks.0.gamma_1" in file else None,
        act="gelu",
        norm_after_pool=after,
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    """Return the mapping of every tensor; a norm in the perceptron splits matrices."""
    last = "fc_norm" if config.norm_after_pool else "norm"
    rules = [*copy_layer("patch_embed.proj"), *copy_layer(last)]
    if config.class_token:
        rules.append(copy("cls_token"))
    if config.reg_tokens:
        rules.append(copy("reg_token"))
    if config.position != "rotary_index":
        rules.append(copy("pos_embed"))
    for index in range(config.depth):
        rules += _map_block(config, f"blocks.{index}.")
    return rules + (copy_layer("head") if config.num_classes else [])


def _map_block(config: ViTConfig, block: str) -> list[TensorMapping]:
    rules = []
    for part in ("norm1", "norm2", "attn.proj", "mlp.fc2"):
        rules += copy_layer(f"{block}{part}")
    if config.init_values is not None:
        rules += [copy(f"{block}ls{n}.gamma", f"{block}gamma_{n}") for n in (1, 2)]
    biases = [f"{block}attn.{it}_bias" for it in "qv"]
    if config.mlp_norm:
        names = [f"{block}attn.{it}_proj" for it in "qkv"]
        weights = [f"{it}.weight" for it in names]
        rules.append(concat(f"{block}attn.qkv.weight", weights))
        biases = [f"{it}.bias" for it in names[::2]]
        for part in ("weight", "bias"):
            first = [f"{block}mlp.fc1_{it}.{part}" for it in "gx"]
            rules.append(concat(f"{block}mlp.fc1.{part}", first))
        rules += copy_layer(f"{block}mlp.norm")
    else:
        rules.append(copy(f"{block}attn.qkv.weight"))
        rules += copy_layer(f"{block}mlp.fc1")
    if config.qkv_bias:
        for name, theirs in zip("qv", biases, strict=True):
            rules.append(copy(f"{block}attn.qkv.{name}_bias", theirs))
    return rules


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return the notes: the file is one for `load_state_dict` of timm's model."""
    notes = differences(spec.config, "timm", resize="bicubic_antialias")
    return LayoutOutput(notes=tuple(notes))


def _bare(name: str) -> str:
    return name.partition(".")[0]


def _preprocess(opened: LayoutInput, config: ViTConfig) -> Preprocess:
    if "mean" in settings.read_pretrained(opened):
        return read_preprocess(opened, config)
    opened.notes.append("images as for CLIP and EVA assumed: the file does not say")
    return clip_crop(config.image_hw)


LAYOUT = Layout(
    name="timm_eva",
    title="timm EVA",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
)
