"""Multi-head self-attention (arXiv 2010.11929, appendix A).

    softmax(q k^T / sqrt(head_dim) + bias) v

The forward pass is fused. `attention_weights(x)` recomputes the weights from the same
input, so that the fast path never stores them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitral.layers.init import xavier_uniform_
from vitral.layers.merging import MergeState
from vitral.layers.position import Grid, RelativePosition
from vitral.layers.relative_bias import RelativeBias
from vitral.layers.rotary import RotaryPosition


class KeyBiaslessLinear(nn.Module):
    """Queries, keys and values of one matrix, with biases of queries and values.

    A bias of the keys adds one number to all logits of a query: it changes nothing,
    unless keys are rotated. BEiT has none.
    """

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * inner, dim))
        self.q_bias = nn.Parameter(torch.zeros(inner))
        self.v_bias = nn.Parameter(torch.zeros(inner))

    @property
    def bias(self) -> Float[Tensor, "three_inner"]:
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def forward(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens three_inner"]:
        return F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Self-attention with one fused matrix for queries, keys and values.

    Args:
        dim: width of a token; a multiple of `num_heads` unless `head_dim` is given.
        num_heads: number of heads.
        k_bias: False for biases of queries and values alone.
        head_dim: channels of a head; None for dim / num_heads.
        qk_norm_eps: epsilon of a LayerNorm on the channels of each query and key (arXiv
            2302.05442); None for no such norms.
        drop: dropout on the output, after the projection.
        relative: adds its bias to the logits; None for absolute positions.
        rotary: rotates queries and keys; None for other positions.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        k_bias: bool = True,
        proj_bias: bool = True,
        qk_norm_eps: float | None = None,
        drop: float = 0.0,
        relative: RelativePosition | RelativeBias | None = None,
        rotary: RotaryPosition | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim or dim // num_heads
        inner = num_heads * self.head_dim
        self.qkv: nn.Linear | KeyBiaslessLinear
        if qkv_bias and not k_bias:
            self.qkv = KeyBiaslessLinear(dim, inner)
        else:
            self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        self.q_norm = _norm_or_identity(self.head_dim, qk_norm_eps)
        self.k_norm = _norm_or_identity(self.head_dim, qk_norm_eps)
        self.relative = relative
        self.rotary = rotary
        self.proj = nn.Linear(inner, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        xavier_uniform_(self.qkv.weight, num_matrices=3)
        xavier_uniform_(self.proj.weight)
        for bias in (self.qkv.bias, self.proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend among the tokens.

        Args:
            mask: `attention_mask` of the tokens that take part; None when all do.
            merged: patches of each token; None without merging.
        """
        q, k, v = self._heads(self.qkv(x), parts=3)
        if self.rotary is not None:
            q, k = self.rotary(self.q_norm(q), grid), self.rotary(self.k_norm(k), grid)
            return self._attend_normed(q, k, v, self._bias(q, grid, mask, merged))
        return self._attend(q, k, v, self._bias(q, grid, mask, merged))

    def forward_queries(
        self,
        x: Float[Tensor, "batch tokens dim"],
        num_queries: int,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Return the output of the first `num_queries` tokens only: enough for the last
        block of a class-token model. No mask, no relative bias, no rotation."""
        inner = self.num_heads * self.head_dim
        weight, bias = self.qkv.weight, self.qkv.bias
        q_bias, kv_bias = (None, None) if bias is None else (bias[:inner], bias[inner:])
        queries = F.linear(x[:, :num_queries], weight[:inner], q_bias)
        if num_queries == 1 and isinstance(self.k_norm, nn.Identity):
            return self._attend_one(queries, x, _log_size(merged, queries))
        (q,) = self._heads(queries, parts=1)
        k, v = self._heads(F.linear(x, weight[inner:], kv_bias), parts=2)
        return self._attend(q, k, v, _log_size(merged, q))

    def mean_keys(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens head_dim"]:
        """Return the mean over the heads of each token's key, for token merging."""
        weight, bias = self._qkv_rows(1, 2)
        if not isinstance(self.k_norm, nn.Identity):
            (k,) = self._heads(F.linear(x, weight, bias), parts=1)
            return self.k_norm(k).mean(dim=1)
        # Without the norm the mean of the keys is the key of the mean: cheaper.
        heads = (self.num_heads, self.head_dim)
        mean_bias = None if bias is None else bias.unflatten(0, heads).mean(0)
        return F.linear(x, weight.unflatten(0, heads).mean(0), mean_bias)

    def attention_weights(
        self,
        x: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        mask: Float[Tensor, "batch 1 tokens tokens"] | None = None,
        merged: MergeState | None = None,
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the attention weights of this input; rows are queries."""
        q, k = self._heads(F.linear(x, *self._qkv_rows(0, 2)), parts=2)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:
            q, k = self.rotary(q, grid), self.rotary(k, grid)
        logits = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        bias = self._bias(q, grid, mask, merged)
        return (logits if bias is None else logits + bias).softmax(dim=-1)

    def weights_gradient(
        self,
        x: Float[Tensor, "batch tokens dim"],
        gradient: Float[Tensor, "batch tokens dim"],
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the gradient of a score by each weight, given that at the output.

        The output is linear in the weights, so the fused pass need not store them: d
        score / d weight[q, k] = d score / d head[q] . v[k]. In evaluation: no dropout.
        """
        _, _, v = self._heads(self.qkv(x), parts=3)
        (by_head,) = self._heads(gradient @ self.proj.weight, parts=1)
        return by_head @ v.transpose(-2, -1)

    def _qkv_rows(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of some of the queries (0), keys (1), values (2)."""
        inner, bias = self.num_heads * self.head_dim, self.qkv.bias
        rows = slice(first * inner, last * inner)
        return self.qkv.weight[rows], None if bias is None else bias[rows]

    def _heads(
        self, x: Float[Tensor, "batch tokens parts_dim"], parts: int
    ) -> tuple[Tensor, ...]:
        # Split before transposing: the backward pass then joins the gradients of the
        # parts in the order of `x`, with one copy less.
        split = x.unflatten(-1, (parts, self.num_heads, self.head_dim)).unbind(-3)
        return tuple(part.transpose(1, 2) for part in split)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
    ) -> Float[Tensor, "batch queries dim"]:
        return self._attend_normed(self.q_norm(q), self.k_norm(k), v, bias)

    def _attend_normed(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
    ) -> Float[Tensor, "batch queries dim"]:
        # The ONNX exporter fails on the fused kernel's output with a bias.
        traced = bias is not None and torch.compiler.is_exporting()
        if traced or _use_math_kernel(q, k):
            logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            out = (logits if bias is None else logits + bias).softmax(dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _attend_one(
        self,
        q: Float[Tensor, "batch 1 heads_dim"],
        x: Float[Tensor, "batch tokens dim"],
        bias: Float[Tensor, "batch 1 1 tokens"] | None,
    ) -> Float[Tensor, "batch 1 dim"]:
        """Attend with one query, without computing the keys and values of all tokens.

        Both are linear in the token: q . (W x) = (q W) . x, so the weights mix tokens
        and the value is computed of the mix. The query is repeated per head, its other
        channels zero: plain matrix products, which do not copy the weights for every
        example.
        """
        inner = q.shape[-1]
        identity = torch.eye(self.num_heads, dtype=x.dtype, device=x.device)
        head_mask = identity.repeat_interleave(self.head_dim, dim=1)
        weight, qkv_bias = self.qkv.weight, self.qkv.bias
        q = q * self.head_dim**-0.5 * head_mask
        logits = (q @ weight[inner : 2 * inner]) @ x.transpose(1, 2)
        v_bias = None
        if qkv_bias is not None:
            k_bias, v_bias = qkv_bias[inner : 2 * inner], qkv_bias[2 * inner :]
            logits = logits + (q @ k_bias)[..., None]
        weights = (logits if bias is None else logits + bias[:, 0]).softmax(dim=-1)
        v = F.linear(weights @ x, weight[2 * inner :], v_bias)
        return self.proj_drop(self.proj((v * head_mask).sum(dim=1, keepdim=True)))

    def _bias(
        self, q: Tensor, grid: Grid, mask: Tensor | None, merged: MergeState | None
    ) -> Tensor | None:
        """Return the summand of the logits: relative scores, log sizes, the mask."""
        bias = _log_size(merged, q)
        if self.relative is not None:
            scores = self.relative.bias(q, grid, merged)
            bias = scores if bias is None else scores + bias
        if mask is None:
            return bias
        # A hidden key's mask is the lowest number; adding would overflow it.
        return mask.to(q.dtype) if bias is None else bias.where(mask == 0, mask.to(q))


def _log_size(
    merged: MergeState | None, template: Tensor
) -> Float[Tensor, "batch 1 1 tokens"] | None:
    """Return the log of the number of equal keys that each key stands for."""
    if merged is None or merged.is_identity:
        return None
    # A token of size 0 is hidden by the mask.
    size = merged.size if merged.takes_part is None else merged.size.clamp(min=1)
    return size.log().to(template.dtype)[:, None, None, :]


def attention_mask(
    takes_part: Bool[Tensor, "batch tokens"], template: Tensor
) -> Float[Tensor, "batch 1 tokens tokens"]:
    """Build the mask with which only tokens that take part attend to each other.

    A key that does not take part gets the weight zero. A query that does not take part
    gets equal logits, hence finite, uniform weights; its output is meaningless.
    """
    pairs = takes_part[:, None, :, None] & takes_part[:, None, None, :]
    mask = template.new_zeros(pairs.shape)
    # Half of the range: adding ordinary logits must not reach infinity, and both are
    # so far from any logit that the rounded sum forgets the logit.
    return mask.masked_fill(~pairs, -torch.finfo(template.dtype).max / 2)


MATH_KERNEL_MAX_TOKENS = 640
"""Tokens; the weights of longer sequences would take too much memory in training."""


def _use_math_kernel(q: Tensor, k: Tensor) -> bool:
    """Return whether two matrix products are faster than the fused kernel.

    On the CPU, torch's fused kernel is 2 to 3 times slower at training in bfloat16
    (docs/dev/experiments/training.md); everywhere else it is faster.
    """
    on_cpu = q.device.type == "cpu" and q.dtype == torch.bfloat16
    return on_cpu and torch.is_grad_enabled() and k.shape[-2] <= MATH_KERNEL_MAX_TOKENS


def _norm_or_identity(dim: int, eps: float | None) -> nn.Module:
    return nn.Identity() if eps is None else nn.LayerNorm(dim, eps)
