"""Pooling of tokens to one vector: mean, or attention (arXiv 2106.04560, 3.3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitral.layers.init import xavier_uniform_
from vitral.layers.mlp import Activation, Mlp


def masked_mean(
    tokens: Float[Tensor, "batch tokens dim"],
    takes_part: Bool[Tensor, "batch tokens"] | None,
) -> Float[Tensor, "batch dim"]:
    """Return the mean of the tokens that take part; zeros where none does."""
    if takes_part is None:
        return tokens.mean(dim=1)
    share = takes_part.to(tokens.dtype)
    return (tokens * share[:, :, None]).sum(1) / share.sum(1, keepdim=True).clamp(1)


class AttentionPool(nn.Module):
    """One learned query attends to all tokens; then x + mlp(norm(x)).

    The attention has no residual: the query holds nothing of the image.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        act: Activation,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.empty(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, mlp_dim, act=act)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.latent)
        xavier_uniform_(self.q.weight)
        xavier_uniform_(self.kv.weight, num_matrices=2)
        xavier_uniform_(self.proj.weight)
        for layer in (self.q, self.kv, self.proj):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        takes_part: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        heads = (self.num_heads, x.shape[-1] // self.num_heads)
        query = self.q(self.latent).unflatten(-1, heads).transpose(1, 2)
        query = query.expand(x.shape[0], -1, -1, -1)
        key, value = self.kv(x).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        mask = None if takes_part is None else takes_part[:, None, None, :]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        pooled = self.proj(out.transpose(1, 2).flatten(2))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]
