"""Position embeddings: tables, their resizing, sin-cos, and relative scores.

Sources: arXiv 2010.11929 sections 3.1, 3.2 and appendix D.4; sin-cos of arXiv
2205.01580. A grid is (rows, columns) and may be any rectangle; tokens run row by row.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers.merging import MergeState, merge_matrix, token_map
from vitral.layers.patch_drop import gather_tokens
from vitral.layers.resampling import (
    cubic,
    cubic_antialias,
    geometric,
    linear,
    linear_align_corners,
    nearest,
    symbolic_max,
)

ResizeMethod = Literal[
    "official",
    "bilinear",
    "bicubic",
    "bicubic_antialias",
    "nearest",
    "nearest_flat",
    "geometric",
]
TimeResize = Literal["linear", "nearest"]


class Grid(NamedTuple):
    """Number of patches along the height and the width of an image."""

    rows: int
    columns: int

    @property
    def is_known(self) -> bool:
        """False while a graph for images of any size is traced."""
        return not any(isinstance(side, torch.SymInt) for side in self)


def resize(
    table: Float[Tensor, "*tables old_tokens dim"],
    old: Grid,
    new: Grid,
    method: ResizeMethod = "official",
) -> Float[Tensor, "*tables new_tokens dim"]:
    """Interpolate a position table, without class-token rows, to another grid.

    `official` is bilinear with the corners kept, as in the released code of the paper;
    `bilinear`, `bicubic` and `bicubic_antialias` sample at cell centres, as Hugging
    Face and timm. `geometric` is for offsets: that of BEiT's authors.
    `nearest` is the forward pass of TimeSformer's released model. `nearest_flat` is its
    loader: along the list of all patches as one row, which moves most patches.

    Raises:
        ConfigError: `table` does not have old.rows x old.columns rows.
    """
    if table.shape[-2] != old.rows * old.columns:
        raise ConfigError(
            f"A position table of {table.shape[-2]} rows does not fit a grid of "
            f"{old.rows} x {old.columns} patches: give the grid that it was made for."
        )
    if not new.is_known:
        return _resize_traced(table, old, new, method)
    if old == new:
        return table
    dim = table.shape[-1]
    image = table.reshape(-1, old.rows, old.columns, dim).permute(0, 3, 1, 2)
    # Reduced precision would round the positions; the resize is rare and small.
    wide = image if image.dtype == torch.float64 else image.float()
    if method == "official":
        out = F.interpolate(wide, tuple(new), mode="bilinear", align_corners=True)
    elif method == "nearest":
        out = F.interpolate(wide, tuple(new), mode="nearest")
    elif method == "nearest_flat":
        out = F.interpolate(wide.flatten(2), new.rows * new.columns, mode="nearest")
    elif method == "bilinear":
        out = F.interpolate(wide, tuple(new), mode="bilinear")
    elif method == "geometric":
        rows, columns = (
            geometric(
                torch.arange(after, device=wide.device), before, after, wide.dtype
            )
            for before, after in zip(old, new, strict=True)
        )
        out = rows @ wide @ columns.T
    else:
        antialias = method == "bicubic_antialias"
        out = F.interpolate(wide, tuple(new), mode="bicubic", antialias=antialias)
    tokens = out.to(table.dtype).flatten(2).transpose(1, 2)
    return tokens.reshape(*table.shape[:-2], new.rows * new.columns, dim)


_MATRIX = {
    "official": linear_align_corners,
    "bilinear": linear,
    "bicubic": cubic,
    "bicubic_antialias": cubic_antialias,
    "nearest": nearest,
}


def _resize_traced(
    table: Float[Tensor, "*tables old_tokens dim"],
    old: Grid,
    new: Grid,
    method: ResizeMethod,
) -> Float[Tensor, "*tables new_tokens dim"]:
    """Resize to a grid that is unknown during tracing, possibly the table's own."""
    if method == "geometric":
        raise ConfigError(
            "`position_resize=geometric` is not possible in a graph of any image size, "
            "as it is found by trial: export for one size, or set "
            "`position_resize=bilinear`."
        )
    wide = table if table.dtype == torch.float64 else table.float()

    def apply(name: ResizeMethod, before: int, after: int, cells: Tensor) -> Tensor:
        indices = torch.arange(after, device=table.device)
        # A plain matrix product: OpenVINO takes no batches of constants.
        return _MATRIX[name](indices, before, after, wide.dtype) @ cells.flatten(1)

    dim = table.shape[-1]
    image = wide.reshape(-1, old.rows, old.columns, dim)
    if method == "nearest_flat":
        cells = image.flatten(1, 2).transpose(0, 1)
        count = new.rows * new.columns
        out = apply("nearest", old.rows * old.columns, count, cells)
        out = out.reshape(count, -1, dim).transpose(0, 1)
    else:
        tall = apply(method, old.rows, new.rows, image.transpose(0, 1))
        tall = tall.reshape(new.rows, -1, old.columns, dim).permute(2, 0, 1, 3)
        out = apply(method, old.columns, new.columns, tall)
        out = out.reshape(new.columns, new.rows, -1, dim).permute(2, 1, 0, 3)
    tokens = out.to(table.dtype)
    return tokens.reshape(*table.shape[:-2], new.rows * new.columns, dim)


def resize_time(
    table: Float[Tensor, "1 old_frames dim"], frames: int, method: TimeResize
) -> Float[Tensor, "1 frames dim"]:
    """Interpolate a table of one row per frame to another number of frames.

    `linear` keeps the first and the last frame; `nearest` repeats or skips rows, as
    TimeSformer's released code.
    """
    if frames == table.shape[1]:
        return table
    rows = table.transpose(1, 2)
    # Reduced precision would round the positions; the resize is rare and small.
    wide = rows if rows.dtype == torch.float64 else rows.float()
    if method == "linear":
        out = F.interpolate(wide, frames, mode="linear", align_corners=True)
    else:
        out = F.interpolate(wide, frames, mode="nearest")
    return out.to(table.dtype).transpose(1, 2)


def learned_2d(
    table_x: Float[Tensor, "tables columns half"],
    table_y: Float[Tensor, "tables rows half"],
    new: Grid,
    method: ResizeMethod = "official",
) -> Float[Tensor, "tables tokens dim"]:
    """Return the rows concat(X[column], Y[row]) for every patch of the grid `new`."""
    x = resize(table_x, Grid(1, table_x.shape[1]), Grid(1, new.columns), method)
    y = resize(table_y, Grid(table_y.shape[1], 1), Grid(new.rows, 1), method)
    x = x[:, None, :, :].expand(-1, new.rows, -1, -1)
    y = y[:, :, None, :].expand(-1, -1, new.columns, -1)
    return torch.cat([x, y], dim=-1).flatten(1, 2)


def sincos_2d(
    grid: Grid, dim: int, template: Tensor, *, endpoint: bool = True
) -> Float[Tensor, "tokens dim"]:
    """Return sines and cosines of the column, then of the row; dim % 4 == 0.

    Args:
        endpoint: the dim / 4 frequencies fall from 1 to 1/10,000 (arXiv 2205.01580).
            False: they fall by 10,000^(-4/dim) and do not reach it (arXiv 2111.06377).
    """
    quarter = dim // 4
    exponent = torch.arange(quarter, dtype=torch.float64, device=template.device)
    omega = 10_000.0 ** (-exponent / max(quarter - int(endpoint), 1))
    rows = torch.arange(grid.rows, dtype=torch.float64, device=template.device)
    columns = torch.arange(grid.columns, dtype=torch.float64, device=template.device)
    y = (rows[:, None] * omega)[:, None].expand(-1, grid.columns, -1).flatten(0, 1)
    x = (columns[:, None] * omega).expand(grid.rows, -1, -1).flatten(0, 1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).to(template.dtype)


class RelativePosition(nn.Module):
    """One learned key per offset between two patches, shared by the heads of a layer.

    Appendix D.4 of arXiv 2010.11929: offsets are one-dimensional, along the raster
    order. The paper leaves the class token open; here prefix tokens get no score. On
    another grid, a patch's coordinates are scaled corner to corner, and offsets between
    two learned ones are interpolated.
    """

    def __init__(self, grid: Grid, head_dim: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.grid = grid
        self.num_prefix_tokens = num_prefix_tokens
        num_offsets = 2 * grid.rows * grid.columns - 1
        self.table = nn.Parameter(torch.empty(num_offsets, head_dim))
        nn.init.normal_(self.table, std=0.02)

    def forward(
        self,
        q: Float[Tensor, "batch heads tokens head_dim"],
        grid: Grid,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the scores q . r(offset) of every query with every key.

        A merged token has no single position: its score is the mean over the pairs of
        patches that it and the other token stand for.
        """
        if merged is None or merged.is_identity:
            return self._pairwise_scores(q, grid)
        index, shares = token_map(merged), merge_matrix(merged).to(q.dtype)
        expanded = gather_tokens(q.transpose(1, 2), index).transpose(1, 2)
        scores = self._pairwise_scores(expanded, grid)
        shares = shares[:, None]
        return shares @ scores @ shares.transpose(-2, -1)

    def bias(
        self,
        q: Float[Tensor, "batch heads tokens head_dim"],
        grid: Grid,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the summand of the logits: the scores, scaled as those of the keys."""
        return self(q, grid, merged) * q.shape[-1] ** -0.5

    def _pairwise_scores(
        self, q: Float[Tensor, "batch heads tokens head_dim"], grid: Grid
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        prefix = self.num_prefix_tokens
        indices = self._raster_indices(grid)
        offset = indices[:, None] - indices[None, :] + (self.table.shape[0] - 1) / 2
        low = offset.floor().clamp(0, self.table.shape[0] - 1)
        share = (offset - low).to(q.dtype)
        by_offset = q[:, :, prefix:] @ self.table.to(q.dtype).T
        index = low.long().expand(*by_offset.shape[:2], -1, -1)
        above = (index + 1).clamp_max(self.table.shape[0] - 1)
        scores = by_offset.gather(-1, index) * (1 - share)
        scores = scores + by_offset.gather(-1, above) * share
        return F.pad(scores, (prefix, 0, prefix, 0))

    def _raster_indices(self, grid: Grid) -> Float[Tensor, "patches"]:
        device = self.table.device
        axes = []
        for new, old in zip(grid, self.grid, strict=True):
            step = (old - 1) / symbolic_max(new - 1, 1)
            axes.append(torch.arange(new, dtype=torch.float64, device=device) * step)
        return (axes[0][:, None] * self.grid.columns + axes[1]).flatten()
