"""AIMv2 in timm's names: a file alone, or a folder."""

import re
from functools import partial

from vitral.data import Preprocess
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import json_fields, limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.shared import aimv2
from vitral.weights.layouts.timm import settings
from vitral.weights.layouts.timm.layout import read_preprocess
from vitral.weights.mapping import TensorMapping, concat, copy, copy_layer
from vitral.weights.numerics import clip_crop, differences

NAME = re.compile(r"aimv2_(large|huge|1b|3b)_patch14_\d+")
HEADS = {"large": 8, "huge": 12, "1b": 16, "3b": 24}
ARGUMENTS: dict[str, json_fields.Kind] = {
    **settings.ENCODER,
    "num_heads": json_fields.COUNT,
    "global_pool": settings.one_of("avg"),
    "dynamic_img_size": json_fields.FLAG,
    "dynamic_img_pad": json_fields.FLAG,
    "class_token": settings.one_of(False),
    "proj_bias": settings.one_of(False),
    "act_layer": settings.one_of(None, "silu"),
    **dict.fromkeys(("fc_norm", "qk_norm", "pre_norm"), settings.one_of(False)),
    **dict.fromkeys(
        ("norm_layer", "embed_norm_layer", "mlp_layer"), settings.one_of(None)
    ),
}


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names: norms without biases, one on the patches."""
    name = str(opened.config_json.get("architecture", "")).partition(".")[0]
    own = ("patch_embed.norm.weight", "blocks.0.mlp.fc1_g.weight", "pos_embed")
    others = ("patch_embed.norm.bias", "cls_token", "blocks.0.norm1.bias")
    return (
        (not name or NAME.fullmatch(name) is not None)
        and all(it in opened.file for it in own)
        and not any(it in opened.file for it in others)
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
        classes=settings.read_labels(opened, config.num_classes),
    )


def _config(opened: LayoutInput) -> ViTConfig:
    given = settings.read_arguments(opened, ARGUMENTS)
    width, chans, *patch = opened.shape("patch_embed.proj.weight", 4)
    mlp_dim = opened.shape("blocks.0.mlp.fc2.weight", 2)[1]
    depth = opened.count_blocks(r"blocks\.(\d+)\.")
    classes = opened.rows("head.bias", 1)
    actual = {
        "embed_dim": width,
        "depth": depth,
        "in_chans": chans,
        "num_classes": classes,
        "qkv_bias": False,
        "hidden": mlp_dim,
    }
    settings.check_arguments(opened, given, actual)
    rows = opened.shape("pos_embed", 3)[1]
    declared = settings.find_grid(opened, given, patch, (rows,))
    grid = opened.infer_positions("pos_embed", rows, (0,), declared)
    match = NAME.match(str(opened.config_json.get("architecture", "")))
    named = HEADS[match[1]] if match else None
    heads = opened.choose_num_heads(given.get("num_heads") or named)
    if heads is None:
        heads = width // 128
        opened.notes.append(f"{heads} heads of 128 channels assumed, as in AIMv2")
    return ViTConfig(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_dim=mlp_dim,
        mlp="swiglu",
        norm="rms",
        norm_eps=aimv2.NORM_EPS,
        class_token=False,
        global_pool="avg",
        position_resize="bicubic_antialias",
        qkv_bias=False,
        proj_bias=False,
        act="gelu",
    )


def mappings(config: ViTConfig) -> list[TensorMapping]:
    """Return the mapping of every tensor."""
    rules = [copy("pos_embed"), *copy_layer("patch_embed.proj")]
    rules += [copy("patch_embed.norm.weight"), copy("norm.weight")]
    for index in range(config.depth):
        block = f"blocks.{index}."
        for part in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc2"):
            rules.append(copy(f"{block}{part}.weight"))
        first = [f"{block}mlp.fc1_{it}.weight" for it in "gx"]
        rules.append(concat(f"{block}mlp.fc1.weight", first))
    return rules + (copy_layer("head") if config.num_classes else [])


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    """Return the notes: the file is one for `load_state_dict` of timm's model."""
    notes = differences(
        spec.config,
        "timm",
        norm_eps=aimv2.NORM_EPS,
        resize="bicubic_antialias",
    )
    return LayoutOutput(notes=tuple(notes))


def _preprocess(opened: LayoutInput, config: ViTConfig) -> Preprocess:
    if "mean" in settings.read_pretrained(opened):
        return read_preprocess(opened, config)
    opened.notes.append("images as for CLIP and AIMv2 assumed: the file does not say")
    return clip_crop(config.image_hw)


LAYOUT = Layout(
    name="timm_aimv2",
    title="timm AIMv2",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(
        limits.first_reason,
        (*aimv2.LIMITS, ("it pools the mean", lambda it: it.global_pool != "avg")),
    ),
    make_output=make_output,
)
