"""Decoder of a masked autoencoder, its positions and initialisation (2111.06377)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitral.layers import Attention, Block, Grid, Mlp
from vitral.models import ViTConfig
from vitral.tasks.representation.patches import gather_rows

_TEMPERATURE = 10_000.0


class Decoder(nn.Module):
    """Predict the pixels of every patch from the visible tokens.

    Args:
        encoder: gives the sizes at both ends, the activation and the norms' epsilon.
    """

    def __init__(
        self, encoder: ViTConfig, *, dim: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = encoder.num_prefix_tokens
        self.embed = nn.Linear(encoder.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                Attention(dim, num_heads),
                Mlp(dim, 4 * dim, act=encoder.act),
                norm_eps=encoder.norm_eps,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, encoder.norm_eps)
        self.pred = nn.Linear(dim, math.prod(encoder.patch_hw) * encoder.in_chans)
        nn.init.normal_(self.mask_token, std=0.02)
        reset_linears(self)

    def forward(
        self,
        seen: Float[Tensor, "batch seen dim"],
        grid: Grid,
        restore: Int[Tensor, "batch patches"],
    ) -> Float[Tensor, "batch patches values"]:
        """Predict every patch, visible ones included, in raster order."""
        prefix = self.num_prefix_tokens
        x = self.embed(seen)
        gaps = restore.shape[1] - (x.shape[1] - prefix)
        masks = self.mask_token.to(x.dtype).expand(x.shape[0], gaps, -1)
        patches = gather_rows(torch.cat([x[:, prefix:], masks], dim=1), restore)
        patches = patches + sincos(grid, x.shape[-1], self.mask_token)
        x = torch.cat([x[:, :prefix], patches], dim=1)
        for block in self.blocks:
            x = block(x, grid)
        return self.pred(self.norm(x))[:, prefix:]


def sincos(grid: Grid, dim: int, template: Tensor) -> Float[Tensor, "patches dim"]:
    """Return sines and cosines of the column, then of the row; dim / 4 frequencies.

    They fall from 1 by 10,000^(-4/dim) and do not reach 1/10,000, unlike those of
    `layers.sincos_2d` (arXiv 2205.01580).
    """
    quarter = dim // 4
    exponent = (
        torch.arange(quarter, dtype=torch.float64, device=template.device) / quarter
    )
    omega = _TEMPERATURE**-exponent
    rows = torch.arange(grid.rows, dtype=torch.float64, device=template.device)
    columns = torch.arange(grid.columns, dtype=torch.float64, device=template.device)
    y = (rows[:, None] * omega).repeat_interleave(grid.columns, dim=0)
    x = (columns[:, None] * omega).repeat(grid.rows, 1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).to(template.dtype)


def reset_linears(module: nn.Module) -> None:
    """Set Xavier's uniform weights and no bias, a fused qkv taken as one matrix."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
