"""timm's Transformer in Transformer: names, arguments, and the legacy port.

timm stores the positions of the words as a map, (1, dim, rows, columns), the authors
and vitral as one row per word: a reshape alone would load and be wrong.
"""

import re
from typing import Any

import vitral.models
from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.models import TNTConfig
from vitral.models.tnt import LEGACY_DIFFERENCE
from vitral.weights import file_metadata
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.file_metadata import Words
from vitral.weights.layouts import limits, tnt
from vitral.weights.layouts.timm import settings
from vitral.weights.layouts.tnt import Names
from vitral.weights.mapping import TensorMapping, tokens_as_map

NAMES = Names(
    stem={
        "patch_embed.proj": "pixel_embed.proj",
        "patch_embed.word_pos": "pixel_pos",
        "patch_embed.fold.norm1": "norm1_proj",
        "patch_embed.fold.proj": "proj",
        "patch_embed.fold.norm2": "norm2_proj",
        "pos_embed": "patch_pos",
    },
    block={
        "inner.norm1": "norm_in",
        "inner.attn": "attn_in",
        "inner.norm2": "norm_mlp_in",
        "inner.mlp": "mlp_in",
        "fold.norm1": "norm1_proj",
        "fold.proj": "proj",
        "fold.norm2": "norm2_proj",
        "outer.norm1": "norm_out",
        "outer.attn": "attn_out",
        "outer.norm2": "norm_mlp",
        "outer.mlp": "mlp",
    },
)
FIRST_CONV = "pixel_embed.proj"
INNER_RATIO = 4
"""Hidden width of an inner MLP over the width of a word; no argument of timm."""
LIMITS: tuple[limits.Limit, ...] = (
    *tnt.STRUCTURE,
    (
        f"its inner perceptrons are {INNER_RATIO} times as wide as a word",
        lambda it: it.inner_mlp_dim != INNER_RATIO * it.inner_dim,
    ),
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are timm's names of a TNT."""
    names = (f"{FIRST_CONV}.weight", "blocks.0.attn_in.qk.weight")
    return all(name in opened.file for name in names)


def read_config(opened: LayoutInput) -> TNTConfig:
    """Infer the settings of the TNT; the legacy port computes another function."""
    config_json = opened.config_json
    _refuse_legacy(opened)
    _, _, rows, columns = opened.shape("pixel_pos", 4)
    grid = Grid(rows, columns)
    arguments = settings.read_arguments(opened, settings.TNT)
    hidden, width = opened.shape("blocks.0.mlp.fc1.weight", 2)
    actual = {
        "in_chans": opened.shape(f"{FIRST_CONV}.weight", 4)[1],
        "num_classes": opened.rows("head.bias", 1),
        "embed_dim": width,
        "hidden": hidden,
        "depth": opened.count_blocks(r"blocks\.(\d+)\."),
    }
    settings.check_arguments(opened, arguments, actual)
    declared = file_metadata.read_words(opened.file)
    if "first_stride" in arguments or "architecture" in config_json:
        stride = int(arguments.get("first_stride", 4))
        words = Words(grid, (stride, stride))
    elif declared is not None and declared.grid == grid:
        words = declared
    else:
        words = tnt.assumed_words(grid, opened.notes)
    return tnt.read_config(opened, NAMES, words, arguments, resize="bicubic_antialias")


def _refuse_legacy(opened: LayoutInput) -> None:
    name = str(opened.config_json.get("architecture", ""))
    by_tensors = "blocks.0.norm2_proj.weight" not in opened.file
    if by_tensors or re.match(r"tnt_\w+_legacy", name):
        raise WeightsError(
            f"{opened.path}: it is timm's legacy TNT, another function than the "
            f"paper's: it {LEGACY_DIFFERENCE}. Its weights mean nothing in the paper's "
            "model. Use timm for it, or the weights of tnt_s_patch16_224."
        )


def mappings(config: TNTConfig) -> list[TensorMapping]:
    """Return the mapping of every tensor of a TNT to timm's names."""
    words = "patch_embed.word_pos"
    return [
        tokens_as_map(name, NAMES.foreign_name(name), config.word_grid)
        if name == words
        else tnt.mapping(name, NAMES)
        for name in vitral.models.tensor_shapes(config)
    ]


def find_timm_model(config: TNTConfig) -> tuple[str, dict[str, Any]]:
    """Return a function of timm and its arguments, which override each of its sizes."""
    return "tnt_s_patch16_224", {
        "img_size": list(config.image_hw),
        "patch_size": list(config.patch_hw),
        "in_chans": config.in_chans,
        "embed_dim": config.embed_dim,
        "inner_dim": config.inner_dim,
        "depth": config.depth,
        "num_heads_inner": config.inner_num_heads,
        "num_heads_outer": config.num_heads,
        "mlp_ratio": settings.mlp_ratio(config.mlp_dim, config.embed_dim),
        "qkv_bias": config.qkv_bias,
        "first_stride": config.word_hw[0],
        "global_pool": config.global_pool,
    }
