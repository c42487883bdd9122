"""Transformer in Transformer (arXiv 2103.00112), in the layout of the authors' code.

Files such as `tnt_s_81.5.pth.tar`. One matrix gives queries and keys, another values;
the native one is fused. `outer_tokens`, which their code never uses, is dropped, and
written as zeros. timm's names for the same tensors are in timm/tnt.py.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import vitral.models
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.layers import Grid, ResizeMethod
from vitral.models import ModelConfig, TNTConfig
from vitral.models.tnt import SIZES
from vitral.weights import file_metadata
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.file_metadata import Words
from vitral.weights.infer_config import (
    HALF,
    count_blocks,
    infer_positions,
    require_shape,
    rows_or_zero,
)
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping, concat, copy
from vitral.weights.numerics import differences

KERNEL, NORM_EPS = 7, 1e-5
"""Side of the convolution and epsilon of every norm, which no argument changes."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """Foreign names of the parts of a TNT."""

    stem: Mapping[str, str]
    """Foreign prefix by native prefix, outside the blocks."""
    block: Mapping[str, str]
    """Foreign prefix by native prefix, inside a block."""

    def foreign_name(self, ours: str) -> str:
        """Return the foreign name of a native tensor."""
        before, parts = "", self.stem
        if match := re.match(r"blocks\.\d+\.", ours):
            before, parts = match[0], self.block
        inside = ours.removeprefix(before)
        start = next((part for part in parts if inside.startswith(part)), "")
        return before + parts.get(start, "") + inside.removeprefix(start)


NAMES = Names(
    stem={
        "patch_embed.word_pos": "inner_pos",
        "patch_embed.fold.norm1": "proj_norm1",
        "patch_embed.fold.proj": "proj",
        "patch_embed.fold.norm2": "proj_norm2",
        "pos_embed": "outer_pos",
    },
    block={
        "inner.norm": "inner_norm",
        "inner.attn": "inner_attn",
        "inner.mlp": "inner_mlp",
        "fold.norm": "proj_norm",
        "fold.proj": "proj",
        "outer.norm": "outer_norm",
        "outer.attn": "outer_attn",
        "outer.mlp": "outer_mlp",
    },
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the authors' names."""
    return (
        "inner_pos" in opened.file
        and "blocks.0.inner_attn.qk.weight" in opened.file
        and "vitral" not in opened.config_json
    )


def read(opened: LayoutInput) -> WeightsSource:
    notes = list(opened.notes)
    count = require_shape(opened.file, "inner_pos", 3)[1]
    config = read_config(
        opened, NAMES, _infer_words(opened, count, notes), {}, notes=notes
    )
    dropped = {}
    if "outer_tokens" in opened.file:
        dropped["outer_tokens"] = "the authors' code makes it and never uses it"
    return WeightsSource(
        layout=LAYOUT.title,
        file=opened.file,
        config=config,
        mappings=tuple(mappings(config)),
        preprocess=default_preprocess(config, notes),
        dropped=dropped,
        notes=tuple(notes),
    )


def _infer_words(opened: LayoutInput, count: int, notes: list[str]) -> Words:
    declared = file_metadata.read_words(opened.file)
    if declared is not None and math.prod(declared.grid) == count:
        return declared
    side = math.isqrt(count)
    if side * side != count:
        raise WeightsError(
            f"{opened.path}: inner_pos has {count} words in a patch, which are no "
            "square, and the file does not say their rows and columns. Convert it "
            "with the code that made it, or give another file."
        )
    return assumed_words(Grid(side, side), notes)


def assumed_words(grid: Grid, notes: list[str]) -> Words:
    """Return words of the published size, for a file that states no pixels."""
    notes.append(
        "words of 4 x 4 pixels assumed, and so patches of "
        f"{4 * grid.rows} x {4 * grid.columns}: the file cannot say"
    )
    return Words(grid, (4, 4))


def read_config(
    opened: LayoutInput,
    names: Names,
    words: Words,
    arguments: Mapping[str, Any],
    *,
    notes: list[str],
    resize: ResizeMethod = "bicubic",
) -> TNTConfig:
    """Infer the settings of a TNT from the shapes.

    Args:
        words: rows and columns of the words of a patch, and their pixels.
        arguments: of timm's model class, where config.json has them.
    """
    file = opened.file

    def size(ours: str, rank: int) -> tuple[int, ...]:
        return require_shape(file, names.foreign_name(ours), rank)

    inner, chans, kernel, _ = size("patch_embed.proj.weight", 4)
    _, rows, width = size("pos_embed", 3)
    positions = infer_positions(
        opened, names.foreign_name("pos_embed"), rows, (1,), notes=notes
    )
    depth = count_blocks(file, r"blocks\.(\d+)\.")
    patch = [
        side * pixels for side, pixels in zip(words.grid, words.pixels, strict=True)
    ]
    heads, inner_heads = _infer_num_heads(opened, width, inner, arguments, notes=notes)
    bias = names.foreign_name("blocks.0.inner.attn.qkv.bias").replace("qkv", "qk")
    return TNTConfig(
        image_size=(positions.grid.rows * patch[0], positions.grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=rows_or_zero(file, "head.bias", 1),
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_dim=size("blocks.0.outer.mlp.fc1.weight", 2)[0],
        word_size=words.pixels,
        word_kernel=kernel,
        inner_dim=inner,
        inner_num_heads=inner_heads,
        inner_mlp_dim=size("blocks.0.inner.mlp.fc1.weight", 2)[0],
        global_pool="avg" if arguments.get("global_pool") == "avg" else "token",
        qkv_bias=bias in file,
        position_resize=resize,
    )


def _infer_num_heads(
    opened: LayoutInput,
    width: int,
    inner: int,
    arguments: Mapping[str, Any],
    *,
    notes: list[str],
) -> tuple[int, int]:
    """Infer the heads of the outer and of the inner blocks, which no shape tells.

    Raises:
        WeightsError: nothing can be assumed.
    """
    named = [
        size
        for size in SIZES.values()
        if (size["embed_dim"], size["inner_dim"]) == (width, inner)
    ]
    size = named[0] if named else {"num_heads": width // 64, "inner_num_heads": 4}
    heads = opened.num_heads or arguments.get("num_heads_outer")
    inner_heads = file_metadata.read_inner_num_heads(opened.file) or arguments.get(
        "num_heads_inner"
    )
    if (not heads or not inner_heads) and not named:
        if (not heads and width % 64) or (not inner_heads and inner % 4):
            raise WeightsError(
                f"{opened.path}: the heads of a TNT of widths {width} and {inner} "
                "cannot be read from its tensors. Give a folder whose config.json "
                "names them, as timm's."
            )
        notes.append(
            f"{heads or size['num_heads']} outer and {inner_heads or 4} inner heads "
            "assumed: the file cannot say"
        )
    return heads or size["num_heads"], inner_heads or size["inner_num_heads"]


def default_preprocess(config: TNTConfig, notes: list[str]) -> Preprocess:
    """Return the pre-processing of the published models."""
    notes.append(
        "pixel mean and deviation of 0.5 and a crop of 0.9 assumed, as for the "
        "published TNT: the file does not say"
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


def mappings(config: ModelConfig) -> list[TensorMapping]:
    return [mapping(name, NAMES) for name in vitral.models.tensor_shapes(config)]


def mapping(ours: str, names: Names) -> TensorMapping:
    """Map one tensor: under another name, or one matrix of two."""
    theirs = names.foreign_name(ours)
    if ".qkv." not in ours:
        return copy(ours, theirs)
    both = [theirs.replace(".qkv.", part) for part in (".qk.", ".v.")]
    return concat(ours, both, shares=(2, 1))


def unsupported_reason(config: ModelConfig) -> str:
    if not isinstance(config, TNTConfig):
        return "it has no such family of models"
    if reason := unsupported_structure(config):
        return reason
    reasons = {
        "its head sees the class token": config.global_pool != "token",
        "its inner and outer perceptrons widen by the same factor": (
            not _same_ratio(config)
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def unsupported_structure(config: TNTConfig) -> str:
    """Return why neither the authors' class nor timm's can be this model."""
    reasons = {
        "its positions are learned, one row a patch, added at the stem": (
            config.position != "learned_1d" or config.position_at != "stem"
        ),
        "it has a class token with a position of its own": (
            not config.class_token or config.no_embed_class
        ),
        "it has no registers": config.reg_tokens > 0,
        "it pools one way only": config.global_pool not in ("token", "avg"),
        "it normalises before it pools": config.norm_after_pool,
        "its perceptrons are plain": config.mlp != "plain",
        "it does not normalise queries and keys": config.qk_norm,
        "it has no LayerScale": config.init_values is not None,
        "it has no tanh layer before the head": config.representation_size > 0,
        "its heads together are as wide as the model": (
            config.attention_dim != config.embed_dim
        ),
        "it has a bias wherever the attention projects": not config.proj_bias,
        f"its words are computed from {KERNEL} x {KERNEL} pixels": (
            config.word_kernel != KERNEL
        ),
        "its words are square": config.word_hw[0] != config.word_hw[1],
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _same_ratio(config: TNTConfig) -> bool:
    """Return whether one factor, rounded down, gives both hidden widths."""
    pairs = (
        (config.mlp_dim, config.embed_dim),
        (config.inner_mlp_dim, config.inner_dim),
    )
    return max(hidden / dim for hidden, dim in pairs) < min(
        (hidden + 1) / dim for hidden, dim in pairs
    )


def make_output(spec: ModelSpec) -> LayoutOutput:
    """Return the unused tensor, and notes on the differences."""
    config = spec.config
    assert isinstance(config, TNTConfig)
    unused = torch.zeros(1, math.prod(config.grid), config.embed_dim)
    notes = differences(config, "the authors' code", norm_eps=NORM_EPS)
    return LayoutOutput(new={"outer_tokens": unused}, notes=tuple(notes))


LAYOUT = Layout(
    name="tnt",
    title="TNT",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
