"""Rotary positions of DINOv3 (arXiv 2508.10104), after arXiv 2104.09864."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitral.layers.position import Grid


class RotaryPosition(nn.Module):
    """Rotates queries and keys of patches by angles of their row and their column.

    The centres of the patches lie in (-1, 1) on each axis, whatever the grid. A quarter
    of the channels has one period each, from 1 to `base`, for rows and for columns; the
    second half of the channels completes the first. Prefix tokens are not rotated.
    """

    def __init__(self, num_prefix_tokens: int, base: float = 100.0) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.base = base

    def forward(
        self, x: Float[Tensor, "batch heads tokens head_dim"], grid: Grid
    ) -> Float[Tensor, "batch heads tokens head_dim"]:
        """Return the queries or the keys, those of the patches rotated."""
        angles = self.angles(grid, x.shape[-1], x.device)
        cos, sin = (it.repeat(1, 2).to(x.dtype) for it in (angles.cos(), angles.sin()))
        prefix, patches = (
            x[:, :, : self.num_prefix_tokens],
            x[:, :, self.num_prefix_tokens :],
        )
        first, second = patches.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return torch.cat([prefix, patches * cos + turned * sin], dim=2)

    def angles(
        self, grid: Grid, head_dim: int, device: torch.device
    ) -> Float[Tensor, "patches half"]:
        """Return the angles of every patch: of its row, then of its column."""
        quarter = head_dim // 4
        # In float64: reduced precision would move the patches.
        steps = torch.arange(quarter, dtype=torch.float64, device=device) / quarter
        periods = self.base**steps
        axes = []
        for side in grid:
            index = torch.arange(side, dtype=torch.float64, device=device)
            centre = (index + 0.5) / side * 2 - 1
            axes.append(2 * math.pi * centre[:, None] / periods)
        rows, columns = axes
        by_row = rows[:, None].expand(-1, grid.columns, -1)
        by_column = columns[None].expand(grid.rows, -1, -1)
        return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)
