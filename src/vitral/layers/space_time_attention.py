"""Attention inside a clip (arXiv 2102.05095, section 3), arranged by reshapes.

A clip's tokens are prefix tokens, then the patches frame by frame, each row by row.
Along one axis the patches fall into independent groups, so attention runs over more and
shorter sequences. The two sparse types share keys between queries, and never make a
matrix of all tokens with all.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitral.layers.attention import Attention
from vitral.layers.merging import MergeState
from vitral.layers.position import Grid

Along = Literal["time", "space", "width", "height"]
GROUP_AXES: dict[Along, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "time": ((1, 2), (0,)),
    "space": ((0,), (1, 2)),
    "width": ((0, 1), (2,)),
    "height": ((0, 2), (1,)),
}
"""Axes that index the groups, and axes inside a group (0 frames, 1 rows, 2 columns)."""


class Extent(NamedTuple):
    """Number of patches of a clip along each axis."""

    frames: int
    rows: int
    columns: int

    def group_grid(self, along: Along) -> Grid:
        """Return rows and columns of the patches of one group."""
        return {
            "time": Grid(1, self.frames),
            "space": Grid(self.rows, self.columns),
            "width": Grid(1, self.columns),
            "height": Grid(self.rows, 1),
        }[along]


def clip_extent(
    x: Float[Tensor, "batch tokens dim"], grid: Grid, num_prefix_tokens: int
) -> Extent:
    """Return frames, rows and columns of the patches of `x`."""
    patches = x.shape[1] - num_prefix_tokens
    return Extent(patches // (grid.rows * grid.columns), *grid)


class Groups(NamedTuple):
    """Tokens of a clip, group by group, each with a copy of the prefix tokens."""

    x: Float[Tensor, "groups tokens dim"]
    along: Along
    extent: Extent
    num_prefix_tokens: int
    per_clip: int
    """Groups of one clip."""

    def ungroup(
        self, x: Float[Tensor, "groups line dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens in the order of the clip, prefix tokens averaged."""
        groups, line = GROUP_AXES[self.along]
        axes, before = groups + line, self.num_prefix_tokens
        sizes = [self.extent[axis] for axis in axes]
        back = (0, *(1 + axes.index(axis) for axis in range(3)), 4)
        patches = x[:, before:].reshape(-1, *sizes, x.shape[-1])
        patches = patches.permute(back).flatten(1, 3)
        if not before:
            return patches
        return torch.cat([self.prefix(x[:, :before]), patches], dim=1)

    def prefix(
        self, x: Float[Tensor, "groups prefix dim"]
    ) -> Float[Tensor, "batch prefix dim"]:
        """Return the mean over the groups of each clip."""
        return x.unflatten(0, (-1, self.per_clip)).mean(dim=1)


def group_tokens(
    x: Float[Tensor, "batch tokens dim"],
    num_prefix_tokens: int,
    extent: Extent,
    along: Along,
) -> Groups:
    """Build one sequence for every group of patches along an axis."""
    groups, line = GROUP_AXES[along]
    order = (0, *(1 + axis for axis in groups + line), 4)
    lines = x[:, num_prefix_tokens:].unflatten(1, tuple(extent)).permute(order)
    lines = lines.flatten(1, len(groups)).flatten(2, -2)
    if num_prefix_tokens:
        copies = x[:, None, :num_prefix_tokens].expand(-1, lines.shape[1], -1, -1)
        lines = torch.cat([copies, lines], dim=2)
    count = lines.shape[1]
    return Groups(lines.flatten(0, 1), along, extent, num_prefix_tokens, count)


class ClipAttention(Attention, ABC):
    """Attention among all tokens of a clip, where each query has only few keys.

    All queries see the prefix tokens.

    Args:
        num_prefix_tokens: tokens before the patches of the input sequences.
        head_dim, qkv_bias, proj_bias, qk_norm_eps, drop: as in `Attention`.
    """

    prefix_sees_all: ClassVar[bool]
    """True if prefix tokens see every token, otherwise what a patch sees."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_prefix_tokens: int,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        qk_norm_eps: float | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            proj_bias=proj_bias,
            qk_norm_eps=qk_norm_eps,
            drop=drop,
        )
        self.num_prefix_tokens = num_prefix_tokens

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        assert mask is None
        assert merged is None
        return self.attend_clip(x, clip_extent(x, grid, self.num_prefix_tokens))

    @abstractmethod
    def attend_clip(
        self, x: Float[Tensor, "batch tokens dim"], extent: Extent
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend among the tokens of a clip."""

    @abstractmethod
    def visibility(self, extent: Extent) -> Bool[Tensor, "queries keys"]:
        """Return which patches each patch sees, as a full matrix, for inspection."""

    def attention_weights(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the attention weights of this input; zero for unseen keys."""
        assert mask is None
        assert merged is None
        before = self.num_prefix_tokens
        patches = self.visibility(clip_extent(x, grid, before))
        seen = F.pad(patches, (before, 0, before, 0), value=True)
        if not self.prefix_sees_all:
            seen[:before] = seen[before]
        hidden = torch.zeros_like(seen, dtype=x.dtype, device=x.device)
        hidden = hidden.masked_fill(~seen.to(x.device), float("-inf"))
        return super().attention_weights(x, grid, hidden.expand(x.shape[0], 1, -1, -1))


def radii(grid: Grid) -> tuple[int, int]:
    """Return the rows and columns of a local neighbourhood to either side.

    A quarter of the side, rounded down: the neighbourhood then has the odd number of
    rows nearest to half of all, the larger of two.
    """
    return grid.rows // 4, grid.columns // 4


class LocalAttention(ClipAttention):
    """Each patch sees its neighbourhood in all frames: about half the rows, half the
    columns, centred on itself and cut at the border. Prefix tokens see all.

    Queries of one row share the rows of their keys, so rows are computed one by one.
    """

    prefix_sees_all = True

    def attend_clip(
        self, x: Float[Tensor, "batch tokens dim"], extent: Extent
    ) -> Float[Tensor, "batch tokens dim"]:
        before = self.num_prefix_tokens
        q, k, v = self._heads(self.qkv(x), parts=3)
        q, k = self.q_norm(q), self.k_norm(k)
        cells = [t[:, :, before:].unflatten(2, tuple(extent)) for t in (q, k, v)]
        band = self._band(extent, q)
        rows, (reach, _) = [], radii(Grid(extent.rows, extent.columns))
        for row in range(extent.rows):
            first, last = max(row - reach, 0), min(row + reach, extent.rows - 1)
            near = [t[:, :, :, first : last + 1].flatten(2, 4) for t in cells[1:]]
            if before:
                prefix = (k[:, :, :before], v[:, :, :before])
                near = [torch.cat(pair, 2) for pair in zip(prefix, near, strict=True)]
            query = cells[0][:, :, :, row].flatten(2, 3)
            hidden = (
                None if band is None else self._row_mask(band, extent, last - first)
            )
            key, value = near
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
            rows.append(out.unflatten(2, (extent.frames, extent.columns)))
        heads = torch.stack(rows, dim=3).flatten(2, 4)
        if before:
            prefix_heads = F.scaled_dot_product_attention(q[:, :, :before], k, v)
            heads = torch.cat([prefix_heads, heads], dim=2)
        return self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2)))

    def _band(self, extent: Extent, template: Tensor) -> Tensor | None:
        """Return the mask of columns that are too far; None if there is none."""
        reach = radii(Grid(extent.rows, extent.columns))[1]
        if reach >= extent.columns - 1:
            return None
        index = torch.arange(extent.columns, device=template.device)
        far = (index[:, None] - index).abs() > reach
        return template.new_zeros(far.shape).masked_fill(far, float("-inf"))

    def _row_mask(self, band: Tensor, extent: Extent, further_rows: int) -> Tensor:
        """Expand `band` to the queries of one row of all frames and their keys."""
        frames, columns = extent.frames, extent.columns
        shape = (frames, columns, frames, 1 + further_rows, columns)
        expanded = band[None, :, None, None, :].expand(shape)
        expanded = expanded.reshape(frames * columns, -1)
        return F.pad(expanded, (self.num_prefix_tokens, 0))

    def visibility(self, extent: Extent) -> Bool[Tensor, "queries keys"]:
        near_by_axis = []
        sides = (extent.rows, extent.columns)
        for side, reach in zip(sides, radii(Grid(*sides)), strict=True):
            index = torch.arange(side)
            near_by_axis.append((index[:, None] - index).abs() <= reach)
        rows, columns = near_by_axis
        near = rows[:, None, :, None] & columns[None, :, None, :]
        return near.flatten(0, 1).flatten(1, 2).repeat(extent.frames, extent.frames)


STRIDE = 2


class StridedAttention(ClipAttention):
    """Every token sees the prefix tokens and the patches of every second frame, row and
    column, from the first on."""

    prefix_sees_all = False

    def attend_clip(
        self, x: Float[Tensor, "batch tokens dim"], extent: Extent
    ) -> Float[Tensor, "batch tokens dim"]:
        return self._attend_queries(x, x, extent)

    def prefix_only(
        self, x: Float[Tensor, "batch tokens dim"], grid: Grid
    ) -> Float[Tensor, "batch prefix dim"]:
        """Return the output of the prefix tokens, without computing the others."""
        extent = clip_extent(x, grid, self.num_prefix_tokens)
        return self._attend_queries(x[:, : self.num_prefix_tokens], x, extent)

    def _attend_queries(self, queries: Tensor, x: Tensor, extent: Extent) -> Tensor:
        before = self.num_prefix_tokens
        patches = x[:, before:].unflatten(1, tuple(extent))
        few = patches[:, ::STRIDE, ::STRIDE, ::STRIDE].flatten(1, 3)
        keys = torch.cat([x[:, :before], few], dim=1)
        (q,) = self._heads(F.linear(queries, *self._qkv_rows(0, 1)), parts=1)
        k, v = self._heads(F.linear(keys, *self._qkv_rows(1, 3)), parts=2)
        return self._attend(q, k, v, None)

    def visibility(self, extent: Extent) -> Bool[Tensor, "queries keys"]:
        key = torch.zeros(tuple(extent), dtype=torch.bool)
        key[::STRIDE, ::STRIDE, ::STRIDE] = True
        return key.flatten().repeat(math.prod(extent), 1)
