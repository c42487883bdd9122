"""timm's Vision Transformer layout, which is also the one that vitral writes.

The model is built from the shapes in the file. What shapes cannot tell (heads, pixel
statistics, pooling) comes from a config.json beside it, from the caller, or is assumed
and said so.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.models import SIZES, ViTConfig
from vitral.weights.source import Source

TIMM_NORM_EPS = 1e-6
RANKS = {
    "patch_embed.proj.weight": 4,
    "pos_embed": 3,
    "reg_token": 3,
    "blocks.0.mlp.fc1.weight": 2,
    "pre_logits.fc.weight": 2,
    "head.weight": 2,
}
"""Dimensions of the tensors whose shapes describe the model."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def detect(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the names of a Vision Transformer of timm."""
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= tensors.keys()


def read(
    path: Path,
    tensors: dict[str, Tensor],
    *,
    grid: Grid | None = None,
    num_heads: int | None = None,
) -> Source:
    """What the tensors of `path` describe.

    Raises:
        WeightsError: the number of heads or the grid of positions cannot be known.
    """
    _refuse_other_ranks(path, tensors)
    beside = _config_beside(path)
    notes: list[str] = []
    width, chans, *patch = tensors["patch_embed.proj.weight"].shape
    depth = 1 + max(int(m[1]) for m in map(_BLOCK.match, tensors) if m)
    mlp_dim = _rows(tensors, "blocks.0.mlp.fc1.weight", path)
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    prefix = int("cls_token" in tensors) + registers
    positions = _positions(path, tensors, prefix, grid, notes)
    arguments = beside.get("model_args", {})
    heads = num_heads or arguments.get("num_heads")
    if heads is None:
        heads = _heads(path, width, depth, mlp_dim, notes)
    config = ViTConfig(
        image_size=(positions.grid.rows * patch[0], positions.grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=_classes(tensors),
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_dim=mlp_dim,
        class_token="cls_token" in tensors,
        reg_tokens=registers,
        global_pool=_pool(tensors, beside),
        position="learned_1d" if "pos_embed" in tensors else "none",
        no_embed_class=positions.no_embed_class,
        position_resize="bicubic_antialias",
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
        init_values=1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        act="gelu_tanh" if arguments.get("act_layer") == "gelu_tanh" else "gelu",
        norm_after_pool="fc_norm.weight" in tensors,
        representation_size=_rows_or_zero(tensors, "pre_logits.fc.weight"),
    )
    return Source(
        path=path,
        config=config,
        tensors=tensors,
        preprocess=_preprocess(config, beside, notes),
        classes=tuple(beside.get("label_names", ())),
        notes=tuple(notes),
    )


def model_args(config: ViTConfig) -> dict[str, Any] | None:
    """timm's constructor arguments for this model; None if timm cannot express it."""
    plain = config.position == "learned_1d" and config.position_at == "stem"
    if not plain or config.global_pool == "token_avg" or config.representation_size:
        return None
    if config.norm_eps != TIMM_NORM_EPS:
        return None
    arguments: dict[str, Any] = {
        "img_size": list(config.image_hw),
        "patch_size": list(config.patch_hw),
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_dim / config.embed_dim,
        "class_token": config.class_token,
        "reg_tokens": config.reg_tokens,
        "no_embed_class": config.no_embed_class,
        "global_pool": config.global_pool,
        "fc_norm": config.norm_after_pool,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": config.init_values,
        "in_chans": config.in_chans,
        "dynamic_img_size": True,
    }
    if config.act == "gelu_tanh":
        arguments["act_layer"] = "gelu_tanh"
    return arguments


_BLOCK = re.compile(r"blocks\.(\d+)\.")


def _refuse_other_ranks(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, rank in RANKS.items():
        if name in tensors and tensors[name].ndim != rank:
            raise WeightsError(
                f"{path}: tensor {name} has shape {tuple(tensors[name].shape)}, but "
                f"the Vision Transformer's has {rank} dimensions. It is the file of "
                "another model."
            )


class _Positions:
    """The grid of the table in a file, and whether prefix tokens have rows in it."""

    def __init__(self, grid: Grid, no_embed_class: bool) -> None:
        self.grid, self.no_embed_class = grid, no_embed_class


def _positions(
    path: Path,
    tensors: dict[str, Tensor],
    prefix: int,
    grid: Grid | None,
    notes: list[str],
) -> _Positions:
    if "pos_embed" not in tensors:
        return _Positions(grid or Grid(14, 14), False)
    rows = tensors["pos_embed"].shape[1]
    for own in (prefix, 0):
        if grid is not None and rows - own == math.prod(grid):
            return _Positions(grid, own != prefix)
    for own in (prefix, 0):
        side = math.isqrt(max(rows - own, 0))
        if grid is None and side and side * side == rows - own:
            if own != prefix:
                notes.append(
                    f"{side} x {side} patches assumed, and no row of the position "
                    "table for the class and register tokens: give the grid if it is "
                    "another"
                )
            return _Positions(Grid(side, side), own != prefix)
    wanted = "is not a square" if grid is None else f"is not {grid[0]} x {grid[1]}"
    raise WeightsError(
        f"{path}: the position table has {rows} rows for {prefix} prefix tokens and a "
        f"grid of patches that {wanted}. Give the grid that the model was trained on, "
        "as (rows, columns)."
    )


def _heads(path: Path, width: int, depth: int, mlp: int, notes: list[str]) -> int:
    for size in SIZES.values():
        if (size["embed_dim"], size["depth"], size["mlp_dim"]) == (width, depth, mlp):
            return size["num_heads"]
    if width % 64 == 0:
        notes.append(f"{width // 64} heads of 64 channels assumed: the file cannot say")
        return width // 64
    raise WeightsError(
        f"{path}: the number of heads of a model of width {width} cannot be read from "
        "its tensors. Give `num_heads`."
    )


def _pool(tensors: dict[str, Tensor], beside: dict[str, Any]) -> Any:
    if "attn_pool.latent" in tensors:
        return "map"
    if beside.get("global_pool") in ("token", "avg"):
        return beside["global_pool"]
    token = "cls_token" in tensors and "fc_norm.weight" not in tensors
    return "token" if token else "avg"


def _preprocess(
    config: ViTConfig, beside: dict[str, Any], notes: list[str]
) -> Preprocess:
    about = beside.get("pretrained_cfg", {})
    if "mean" in about and "std" in about:
        return Preprocess(
            image_size=config.image_hw,
            resize="squash" if about.get("crop_mode") == "squash" else "crop",
            crop_fraction=float(about.get("crop_pct", 1.0)),
            interpolation=about.get("interpolation", "bicubic"),
            antialias=True,
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
        )
    dino = config.init_values is not None and config.patch_hw == (14, 14)
    if dino:
        notes.append(
            "pixel mean and deviation of ImageNet assumed, as for DINOv2 (LayerScale "
            "and patches of 14): the file does not say"
        )
    else:
        notes.append(
            "pixel mean and deviation of 0.5 assumed, as for the official ViT: the "
            "file does not say"
        )
    return Preprocess(
        image_size=config.image_hw,
        resize="squash",
        interpolation="bicubic",
        antialias=True,
        mean=IMAGENET_MEAN if dino else (0.5, 0.5, 0.5),
        std=IMAGENET_STD if dino else (0.5, 0.5, 0.5),
    )


def _config_beside(path: Path) -> dict[str, Any]:
    file = path.with_name("config.json")
    if path.name != "model.safetensors" or not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} is not readable JSON: {error}.") from error
    return value if isinstance(value, dict) else {}


def _classes(tensors: dict[str, Tensor]) -> int:
    return _rows_or_zero(tensors, "head.weight")


def _rows_or_zero(tensors: dict[str, Tensor], name: str) -> int:
    return tensors[name].shape[0] if name in tensors else 0


def _rows(tensors: dict[str, Tensor], name: str, path: Path) -> int:
    if name not in tensors:
        raise WeightsError(
            f"{path}: no tensor {name}, so its perceptron is not the two-layer one of "
            "the Vision Transformer. vitral cannot use this model."
        )
    return tensors[name].shape[0]
