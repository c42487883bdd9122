"""Facts of BEiT (arXiv 2106.08254) and BEiT v2 that its layouts share."""

import math

from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts import limits
from vitral.weights.mapping import TensorMapping, copy

CLASS_ROWS = 3
"""Rows of the table after those of the offsets between patches."""
LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    (
        "its positions are biases of the attention",
        lambda it: it.position != "relative_bias",
    ),
    ("its queries and values have biases", lambda it: not it.qkv_bias),
    ("its keys have no bias", lambda it: it.k_bias),
    limits.PLAIN_MLP,
    limits.NO_QK_NORM,
    limits.NO_TANH,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.PROJ_BIAS,
)
SHARED = (
    "each block has its own copy of the relative positions that the file's blocks "
    "share, as in the authors' fine-tuning"
)


def read_window(opened: LayoutInput, table: str, declared: Grid | None) -> Grid:
    """Return the grid that a table of offsets was made for.

    Args:
        declared: the grid of a file next to the tensors; the caller's comes first.

    Raises:
        WeightsError: the table is that of another grid.
    """
    rows = opened.shape(table, 2)[0] - CLASS_ROWS
    given, side = opened.grid or declared, math.isqrt(max(rows, 0))
    if given is None and side % 2 and side * side == rows:
        return Grid((side + 1) // 2, (side + 1) // 2)
    if given is not None and rows == math.prod(2 * it - 1 for it in given):
        return given
    shown = "a square grid" if given is None else f"a grid of {given[0]} x {given[1]}"
    raise WeightsError(
        f"{opened.path}: the table of relative positions {table} has {rows} offsets, "
        f"but {shown} patches has another number. Give the grid that the model was "
        "trained on, as (rows, columns)."
    )


def map_biases(block: int, q: str, v: str) -> list[TensorMapping]:
    """Map the biases of the queries and the values of a block."""
    ours = f"blocks.{block}.attn.qkv"
    return [copy(f"{ours}.q_bias", q), copy(f"{ours}.v_bias", v)]


def map_table(block: int, theirs: str) -> TensorMapping:
    """Map the table of a block."""
    return copy(f"blocks.{block}.attn.relative.table", theirs)
