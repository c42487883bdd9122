"""Relative position bias of BEiT (arXiv 2106.08254), after T5 and Swin."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitral.layers.merging import MergeState, merge_matrix
from vitral.layers.position import Grid, ResizeMethod, resize

CLASS_ROWS = 3
"""Rows after those of the offsets: from the class token, to it, and to itself."""


class RelativeBias(nn.Module):
    """One learned summand of the logits per offset between two patches and head.

    Offsets are two-dimensional: of rows, then of columns. On another grid the table of
    offsets is resized by `method`, the three rows of the class token are not.
    """

    def __init__(self, grid: Grid, num_heads: int, method: ResizeMethod) -> None:
        super().__init__()
        self.grid = grid
        self.method: ResizeMethod = method
        rows, columns = offsets(grid)
        self.table = nn.Parameter(torch.zeros(rows * columns + CLASS_ROWS, num_heads))

    def bias(
        self,
        q: Float[Tensor, "batch heads tokens head_dim"],
        grid: Grid,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "#batch heads tokens tokens"]:
        """Return the summand of the logits, for all images alike without merging.

        That of two merged tokens is the mean over the pairs of patches that they stand
        for.
        """
        table = resize_bias(self.table, self.grid, grid, self.method)
        index = self._indices(grid)
        scores = table.T.to(q.dtype)[:, index.flatten()].unflatten(1, index.shape)[None]
        if merged is None or merged.is_identity:
            return scores
        shares = merge_matrix(merged).to(q.dtype)[:, None]
        return shares @ scores @ shares.transpose(-2, -1)

    def _indices(self, grid: Grid) -> Int[Tensor, "tokens tokens"]:
        """Return the row of the table for every query and key."""
        device = self.table.device
        rows, columns = offsets(grid)
        y, x = (torch.arange(side, device=device) for side in grid)
        below = (y[:, None] - y + grid.rows - 1)[:, None, :, None] * columns
        index = below + (x[:, None] - x + grid.columns - 1)[None, :, None, :]
        index = index.flatten(2).flatten(0, 1)
        first = rows * columns
        line = torch.zeros_like(index[:1])
        top = torch.cat([line[:, :1] + first + 2, line + first], dim=1)
        return torch.cat([top, torch.cat([line.T + first + 1, index], dim=1)])


def resize_bias(
    table: Float[Tensor, "rows heads"], old: Grid, new: Grid, method: ResizeMethod
) -> Float[Tensor, "new_rows heads"]:
    """Interpolate a table of offsets to those of another grid."""
    rows = resize(table[:-CLASS_ROWS], offsets(old), offsets(new), method)
    return torch.cat([rows, table[-CLASS_ROWS:]])


def offsets(grid: Grid) -> Grid:
    """Return the number of offsets between two rows, and between two columns."""
    return Grid(2 * grid.rows - 1, 2 * grid.columns - 1)
