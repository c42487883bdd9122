"""Rotary positions of DINOv3 (arXiv 2508.10104) and EVA-02 (2303.11331).

Both are after arXiv 2104.09864.
"""

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
        cos, sin = (self._spread(it).to(x.dtype) for it in (angles.cos(), angles.sin()))
        prefix, patches = (
            x[:, :, : self.num_prefix_tokens],
            x[:, :, self.num_prefix_tokens :],
        )
        turned = patches * cos + self._turn(patches) * sin
        return torch.cat([prefix, turned], dim=2)

    def _spread(self, values: Tensor) -> Tensor:
        """Return the value of each channel, of one for both channels of a pair."""
        return values.repeat(1, 2)

    def _turn(self, patches: Tensor) -> Tensor:
        """Return every pair of channels (a, b) as (-b, a)."""
        first, second = patches.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)

    def angles(
        self, grid: Grid, head_dim: int, device: torch.device
    ) -> Float[Tensor, "patches half"]:
        """Return the angles of every patch: of its row, then of its column."""
        quarter = head_dim // 4
        # In float64: reduced precision would move the patches.
        steps = torch.arange(quarter, dtype=torch.float64, device=device) / quarter
        periods = self.base**steps
        indices = (
            torch.arange(side, dtype=torch.float64, device=device) for side in grid
        )
        rows, columns = (
            self._phase(index, side)[:, None] / periods
            for index, side in zip(indices, grid, strict=True)
        )
        by_row = rows[:, None].expand(-1, grid.columns, -1)
        by_column = columns[None].expand(grid.rows, -1, -1)
        return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)

    def _phase(self, index: Tensor, side: int) -> Tensor:
        """Return the angle of each row or column at the period 1."""
        centre = (index + 0.5) / side * 2 - 1
        return 2 * math.pi * centre


class IndexRotaryPosition(RotaryPosition):
    """Rotates by the number of the row and of the column, as EVA-02.

    The numbers run from 0 to 16, whatever the grid; neighbouring channels are a pair.
    """

    reference = 16

    def __init__(self, num_prefix_tokens: int, base: float = 10_000.0) -> None:
        super().__init__(num_prefix_tokens, base)

    def _spread(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(2, dim=1)

    def _turn(self, patches: Tensor) -> Tensor:
        first, second = patches.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([-second, first], dim=-1).flatten(-2)

    def _phase(self, index: Tensor, side: int) -> Tensor:
        return index / side * self.reference
