"""Pre-norm Transformer block (arXiv 2010.11929, equations 2 and 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitral.layers.attention import Attention
from vitral.layers.merging import MergeState, merge
from vitral.layers.mlp import Mlp, SwiGLU
from vitral.layers.position import Grid

NormLayer = type[nn.LayerNorm] | type[nn.RMSNorm]


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drop a residual branch, per example.

    A surviving branch is scaled by 1 / (1 - rate), so the mean stays the same.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        if self.rate == 0.0 or not self.training:
            return x
        if self.rate == 1.0:
            return torch.zeros_like(x)
        keep = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)


class LayerScale(nn.Module):
    """One learned factor per channel of a residual branch (arXiv 2103.17239)."""

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init_value))

    def forward(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        return x * self.gamma


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        init_values: LayerScale's first value; None for none.
        drop_path: probability that an example skips a branch in training.
    """

    def __init__(
        self,
        dim: int,
        attention: Attention,
        mlp: Mlp | SwiGLU,
        *,
        norm_layer: NormLayer = nn.LayerNorm,
        norm_eps: float = 1e-6,
        init_values: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim, eps=norm_eps)
        self.attn = attention
        self.ls1 = _scale(dim, init_values)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = norm_layer(dim, eps=norm_eps)
        self.mlp = mlp
        self.ls2 = _scale(dim, init_values)
        self.drop_path2 = DropPath(drop_path)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), grid, mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def forward_merging(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None,
        merged: MergeState,
        *,
        count: int,
    ) -> tuple[Float[Tensor, "batch left dim"], MergeState]:
        """Compute the block, `count` tokens merged before the MLP (arXiv 2210.09461).

        Args:
            merged: patches of the tokens of `x`.
            count: 0 for a block that merges none.
        """
        seen = self.norm1(x)
        x = x + self.ls1(self.attn(seen, grid, mask, merged))
        if count:
            keys = self.attn.mean_keys(seen)
            x, merged = merge(x, keys, count, merged)
        return x + self.ls2(self.mlp(self.norm2(x))), merged

    def forward_queries(
        self,
        x: Float[Tensor, "batch tokens dim"],
        num_queries: int,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Compute the first `num_queries` tokens only."""
        attended = self.attn.forward_queries(self.norm1(x), num_queries, merged)
        x = x[:, :num_queries] + self.drop_path1(self.ls1(attended))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return rate * l / (depth - 1) for layers l = 0 ... depth - 1 (2106.10270)."""
    return [rate * layer / max(depth - 1, 1) for layer in range(depth)]


def _scale(dim: int, init_values: float | None) -> nn.Module:
    return nn.Identity() if init_values is None else LayerScale(dim, init_values)
