"""Transformer in Transformer (arXiv 2103.00112), in the layout of the authors' code.

Files such as `tnt_s_81.5.pth.tar`. One matrix gives queries and keys, another values;
the native one is fused. `outer_tokens`, which their code never uses, is dropped, and
written as zeros. timm's names for the same tensors are in timm/tnt.py.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
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
from vitral.weights.layouts import limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.mapping import TensorMapping, concat, copy
from vitral.weights.numerics import HALF, differences

KERNEL, NORM_EPS = 7, 1e-5
"""Side of the convolution and epsilon of every norm, which no argument changes."""
STRUCTURE: tuple[limits.Limit, ...] = (
    limits.LEARNED_AT_STEM,
    ("it has a class token with a position of its own", limits.CLASS_TOKEN_ROW[1]),
    limits.NO_REGISTERS,
    ("it pools one way only", lambda it: it.global_pool not in ("token", "avg")),
    limits.NORM_THEN_POOL,
    limits.PLAIN_MLP,
    limits.NO_QK_NORM,
    limits.NO_LAYER_SCALE,
    limits.NO_TANH_BEFORE_HEAD,
    limits.HEADS_WIDTH,
    limits.PROJ_BIAS,
    (
        f"its words are computed from {KERNEL} x {KERNEL} pixels",
        lambda it: it.word_kernel != KERNEL,
    ),
    ("its words are square", lambda it: it.word_hw[0] != it.word_hw[1]),
)
"""Models that neither the authors' class nor timm's can be."""
LIMITS: tuple[limits.Limit, ...] = (
    ("it has no such family of models", lambda it: not isinstance(it, TNTConfig)),
    *STRUCTURE,
    ("its head sees the class token", lambda it: it.global_pool != "token"),
    (
        "its inner and outer perceptrons widen by the same factor",
        lambda it: not _same_ratio(it),
    ),
)


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
    names = ("inner_pos", "blocks.0.inner_attn.qk.weight")
    return all(name in opened.file for name in names)


def read(opened: LayoutInput) -> WeightsSource:
    count = opened.shape("inner_pos", 3)[1]
    config = read_config(opened, NAMES, _infer_words(opened, count), {})
    return opened.source(
        LAYOUT.title,
        config,
        mappings(config),
        default_preprocess(config, opened.notes),
        drop={r"outer_tokens$": "the authors' code makes it and never uses it"},
    )


def _infer_words(opened: LayoutInput, count: int) -> Words:
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
    return assumed_words(Grid(side, side), opened.notes)


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
    resize: ResizeMethod = "bicubic",
) -> TNTConfig:
    """Infer the settings of a TNT from the shapes.

    Args:
        words: rows and columns of the words of a patch, and their pixels.
        arguments: of timm's model class, where config.json has them.
    """

    def size(ours: str, rank: int) -> tuple[int, ...]:
        return opened.shape(names.foreign_name(ours), rank)

    inner, chans, kernel, _ = size("patch_embed.proj.weight", 4)
    _, rows, width = size("pos_embed", 3)
    table = names.foreign_name("pos_embed")
    grid = opened.infer_positions(table, rows, (1,))
    depth = opened.count_blocks(r"blocks\.(\d+)\.")
    sides = zip(words.grid, words.pixels, strict=True)
    patch_rows, patch_columns = (side * pixels for side, pixels in sides)
    heads, inner_heads = _infer_num_heads(opened, width, inner, arguments)
    bias = names.foreign_name("blocks.0.inner.attn.qkv.bias").replace("qkv", "qk")
    return TNTConfig(
        image_size=(grid.rows * patch_rows, grid.columns * patch_columns),
        patch_size=(patch_rows, patch_columns),
        in_chans=chans,
        num_classes=opened.rows("head.bias", 1),
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
        qkv_bias=bias in opened.file,
        position_resize=resize,
    )


def _infer_num_heads(
    opened: LayoutInput, width: int, inner: int, arguments: Mapping[str, Any]
) -> tuple[int, int]:
    """Infer the heads of the outer and of the inner blocks, which no shape tells."""
    named = [
        size
        for size in SIZES.values()
        if (size["embed_dim"], size["inner_dim"]) == (width, inner)
    ]
    size = named[0] if named else {"num_heads": width // 64, "inner_num_heads": 4}
    heads = opened.choose_num_heads(arguments.get("num_heads_outer"))
    inner_heads = file_metadata.read_count(opened.file, file_metadata.INNER_HEADS)
    inner_heads = inner_heads or arguments.get("num_heads_inner")
    if (not heads or not inner_heads) and not named:
        if (not heads and width % 64) or (not inner_heads and inner % 4):
            raise WeightsError(
                f"{opened.path}: the heads of a TNT of widths {width} and {inner} "
                "cannot be read from its tensors. Give a folder whose config.json "
                "names them, as timm's."
            )
        opened.notes.append(
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


def _same_ratio(config: TNTConfig) -> bool:
    """Return whether one factor, rounded down, gives both hidden widths."""
    pairs = (
        (config.mlp_dim, config.embed_dim),
        (config.inner_mlp_dim, config.inner_dim),
    )
    return max(hidden / dim for hidden, dim in pairs) < min(
        (hidden + 1) / dim for hidden, dim in pairs
    )


def make_output(spec: ModelSpec[TNTConfig]) -> LayoutOutput:
    """Return the unused tensor, and notes on the differences."""
    config = spec.config
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
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    class_token_row="with",
)
