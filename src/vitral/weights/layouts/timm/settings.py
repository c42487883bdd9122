"""Settings in timm's config.json, checked: what is not understood is refused.

timm builds a model from an architecture's name, whose arguments `model_args` changes.
Several leave no trace in the tensors, so a value that vitral's model does not have
would be another function under the same names.
"""

import math
from collections.abc import Mapping
from typing import Any

from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.validation import suggestion
from vitral.weights.checkpoint_facts import LayoutInput, patches_of
from vitral.weights.layouts import json_fields as fields
from vitral.weights.layouts.json_fields import Kind
from vitral.weights.layouts.timm.architectures import implied_arguments

CONFIG, OBJECT = "config.json", "pretrained_cfg"
PRETRAINED: dict[str, Kind] = {
    "input_size": fields.INPUT,
    "mean": fields.STATISTICS,
    "std": fields.DEVIATIONS,
    "crop_pct": fields.POSITIVE,
    "interpolation": fields.TEXT,
    "crop_mode": (
        lambda it: it in ("center", "squash", "border"),
        "center, squash or border",
    ),
    "label_names": fields.optional(fields.LABELS),
    "num_classes": fields.WHOLE,
}
TOP: dict[str, Kind] = {
    "architecture": fields.TEXT,
    "num_classes": fields.WHOLE,
    "num_features": fields.WHOLE,
    "label_names": fields.optional(fields.LABELS),
    "model_args": fields.optional(fields.OBJECT),
    OBJECT: fields.OBJECT,
}


def one_of(*values: Any) -> Kind:
    """Return the kind of an argument of which vitral's model has some values only."""
    shown = " or ".join("null" if it is None else str(it) for it in values)
    return (
        lambda it: any(type(it) is type(value) and it == value for value in values),
        f"{shown.lower()}, which vitral's model has",
    )


SHARED: dict[str, Kind] = {
    "in_chans": fields.COUNT,
    "num_classes": fields.WHOLE,
    "drop_rate": fields.SHARE,
    "drop_path_rate": fields.SHARE,
}
"""Arguments of every model."""
ENCODER: dict[str, Kind] = {
    **SHARED,
    "img_size": fields.optional(fields.SIDES),
    "patch_size": fields.SIDES,
    "embed_dim": fields.COUNT,
    "depth": fields.COUNT,
    "mlp_ratio": fields.POSITIVE,
    "qkv_bias": fields.FLAG,
    "pos_drop_rate": fields.SHARE,
    "proj_drop_rate": fields.SHARE,
    "attn_drop_rate": fields.SHARE,
}
"""Arguments of a Vision Transformer and of a TNT."""
VIT: dict[str, Kind] = {
    **ENCODER,
    "patch_drop_rate": fields.SHARE,
    "num_heads": fields.COUNT,
    "qk_norm": fields.FLAG,
    "proj_bias": fields.FLAG,
    "class_token": fields.FLAG,
    "no_embed_class": fields.FLAG,
    "reg_tokens": fields.WHOLE,
    "init_values": fields.optional(fields.NUMBER),
    "fc_norm": fields.optional(fields.FLAG),
    "pool_include_prefix": fields.FLAG,
    "dynamic_img_size": fields.FLAG,
    "dynamic_img_pad": fields.FLAG,
    "strict_img_size": fields.FLAG,
    "weight_init": fields.TEXT,
    "fix_init": fields.FLAG,
    "pos_embed": one_of("learn", "none", ""),
    "global_pool": one_of("token", "avg", "map"),
    "act_layer": one_of(None, "gelu", "gelu_tanh", "quick_gelu"),
    "norm_layer": one_of(None, "layernorm"),
    "mlp_layer": one_of(None, "SwiGLUPacked"),
    "final_norm": one_of(True),
    "pre_norm": fields.FLAG,
    "use_rot_pos_emb": one_of(False),
    **dict.fromkeys(("scale_attn_norm", "scale_mlp_norm"), one_of(False)),
    **dict.fromkeys(
        ("embed_norm_layer", "embed_layer", "block_fn", "attn_layer"), one_of(None)
    ),
}
"""Arguments of timm's `VisionTransformer`."""
RESNET: dict[str, Kind] = {
    **SHARED,
    "layers": fields.COUNTS,
    "channels": fields.COUNTS,
    "stem_chs": fields.COUNT,
    "width_factor": fields.COUNT,
    "global_pool": one_of("avg"),
    "output_stride": one_of(32),
    "stem_type": one_of("", "fixed"),
    "preact": one_of(True),
    "bottle_ratio": one_of(0.25),
    **dict.fromkeys(("avg_down", "basic"), one_of(False)),
    **dict.fromkeys(("act_layer", "norm_layer", "conv_layer"), one_of(None)),
    "zero_init_last": fields.FLAG,
}
"""Arguments of timm's `ResNetV2`."""
TNT: dict[str, Kind] = {
    **ENCODER,
    "inner_dim": fields.COUNT,
    "num_heads_inner": fields.COUNT,
    "num_heads_outer": fields.COUNT,
    "first_stride": fields.COUNT,
    "global_pool": one_of("token", "avg"),
    "legacy": one_of(False),
    "norm_layer": one_of(None),
}
"""Arguments of timm's `TNT`."""


def read_pretrained(opened: LayoutInput) -> Mapping[str, Any]:
    """Return the fields on images and labels; older files have them at the top."""
    pretrained = opened.config_json.get(OBJECT, opened.config_json)
    assert isinstance(pretrained, Mapping)
    return pretrained


def check_config(opened: LayoutInput) -> None:
    """Refuse fields of config.json that have values of another kind.

    Raises:
        WeightsError: a field is of another kind.
    """
    file, config_json = opened.path.with_name(CONFIG), opened.config_json
    fields.check_fields(file, config_json, TOP)
    inside = f"{OBJECT}." if OBJECT in config_json else ""
    fields.check_fields(file, read_pretrained(opened), PRETRAINED, inside)


def read_arguments(opened: LayoutInput, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the arguments of timm's model: of its name, changed by config.json.

    Raises:
        WeightsError: an argument is unknown, or has a value of another function.
    """
    file, config_json = opened.path.with_name(CONFIG), opened.config_json
    name = str(config_json.get("architecture", "")).split(".")[0]
    implied = implied_arguments(name)
    given = dict(config_json.get("model_args") or {})
    for unknown in given.keys() - kinds.keys():
        raise WeightsError(
            f"{file}: `model_args.{unknown}` is {given[unknown]!r}, which vitral does "
            f"not know.{suggestion(unknown, kinds)} It may change the function, so "
            "nothing was loaded. Remove it if it does not, or use timm."
        )
    fields.check_fields(file, given, kinds, "model_args.")
    for argument, value in implied.items():
        accepts, expected = kinds.get(argument, one_of())
        if argument not in given and not accepts(value):
            raise WeightsError(
                f"{file}: timm's {name} has `{argument}` {value}, and vitral's model "
                f"has not, though its tensors have the same names: expected {expected}."
                " Use timm for it."
            )
    top = config_json.get("global_pool")
    if "global_pool" in config_json and "global_pool" not in given:
        fields.check_fields(file, config_json, {"global_pool": kinds["global_pool"]})
        implied["global_pool"] = top
    return implied | given


def check_arguments(
    opened: LayoutInput, given: Mapping[str, Any], actual: Mapping[str, Any]
) -> None:
    """Refuse arguments that the tensors contradict.

    Args:
        actual: values of the tensors, by argument; `hidden` is the width of an MLP.
    """
    pairs = {
        f"model_args.{name}": (_plain(given.get(name)), value)
        for name, value in actual.items()
    }
    pairs["num_classes"] = (
        opened.config_json.get("num_classes"),
        actual["num_classes"],
    )
    if ratio := given.get("mlp_ratio"):
        hidden = int(actual["embed_dim"] * ratio)
        pairs["model_args.mlp_ratio"] = (hidden, actual["hidden"])
    fields.check_agreement(opened.path.with_name(CONFIG), pairs)


def mlp_ratio(hidden: int, dim: int) -> float:
    """Return the ratio of which timm's int(dim * ratio) is `hidden`."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def find_grid(
    opened: LayoutInput,
    arguments: Mapping[str, Any],
    patch: list[int],
    rows: tuple[int, ...],
) -> Grid | None:
    """Return the grid that config.json tells; None where it does not.

    Args:
        patch: height and width of a patch in pixels.
        rows: possible numbers of patches.

    Raises:
        WeightsError: `img_size` is of another number of patches.
    """
    size = arguments.get("img_size")
    if size is not None:
        grid = patches_of(size, patch)
        if math.prod(grid) not in rows and opened.grid is None:
            raise fields.refusal(
                opened.path.with_name(CONFIG),
                "model_args.img_size",
                size,
                f"an image of {rows[0]} patches of {patch[0]} x {patch[1]} pixels, as "
                "the position table has",
            )
        return grid
    declared = read_pretrained(opened).get("input_size")
    if declared is not None:
        grid = patches_of(declared[-2:], patch)
        if math.prod(grid) in rows:
            return grid
        opened.notes.append(
            f"`input_size` {declared} in config.json is not that of the position "
            "table, which is read as a square"
        )
    return None


def read_labels(opened: LayoutInput, count: int) -> tuple[str, ...]:
    """Return the names of the classes; empty where there are not `count` of them."""
    labels = opened.config_json.get("label_names")
    if labels is None:
        labels = read_pretrained(opened).get("label_names")
    if isinstance(labels, Mapping):
        # Numbers may have gaps.
        labels = [labels.get(str(number), f"class {number}") for number in range(count)]
    if not labels:
        return ()
    if len(labels) != count:
        opened.notes.append(
            f"{len(labels)} `label_names` left out: the head has {count} outputs"
        )
        return ()
    return tuple(map(str, labels))
