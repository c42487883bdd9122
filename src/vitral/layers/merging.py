"""Token merging: the most similar tokens become one (arXiv 2210.09461).

    each patch at an even index looks for the patch at an odd index with the most
    similar key; the `count` best matches are merged: a mean, weighted by their sizes

A token of size s stands for s patches: log s is added to its logits, as s equal keys
would get (section 3, proportional attention). Only shapes decide how many tokens are
left, so a graph can be exported.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.layers.patch_drop import gather_tokens, scatter_tokens


class MergeState(NamedTuple):
    """Patches that each token of a sequence stands for."""

    size: Float[Tensor, "batch tokens"]
    """Number of patches in each token that take part; 1 for a prefix token."""
    source: Int[Tensor, "batch patches"]
    """Token of each patch of the image, in the whole sequence."""
    num_prefix_tokens: int
    """Tokens before the patches, which are never merged."""
    takes_part: Bool[Tensor, "batch patches"] | None = None
    """Patches of the image that take part; None when all do."""

    @property
    def is_identity(self) -> bool:
        """True if every token stands for itself."""
        tokens, patches = self.size.shape[1], self.source.shape[1]
        return tokens == self.num_prefix_tokens + patches


class MergePairs(NamedTuple):
    """Merged pairs. A are the patches at even indices, B those at odd ones."""

    unm_idx: Int[Tensor, "batch kept"]
    """Indices in A of the unmerged patches, rising."""
    src_idx: Int[Tensor, "batch gone"]
    """Indices in A of the merged patches."""
    dst_idx: Int[Tensor, "batch gone"]
    """Indices in B of the patches they merge into, possibly repeated."""


def num_merged(patches: int, rate: int) -> int:
    """Return the number of patches merged in one block: `rate`, at most half."""
    return min(rate, patches // 2)


def initial_merge_state(
    x: Float[Tensor, "batch tokens dim"],
    num_prefix_tokens: int,
    takes_part: Bool[Tensor, "batch tokens"] | None,
) -> MergeState:
    """Return the state before merging; a token that takes no part has size 0."""
    batch, tokens, _ = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    indices = torch.arange(num_prefix_tokens, tokens, device=x.device)
    source = indices.expand(batch, -1)
    if takes_part is None:
        size = torch.ones(batch, tokens, dtype=wide, device=x.device)
        return MergeState(size, source, num_prefix_tokens)
    patches = takes_part[:, num_prefix_tokens:]
    return MergeState(takes_part.to(wide), source, num_prefix_tokens, patches)


def bipartite_match(
    keys: Float[Tensor, "batch patches head_dim"],
    count: int,
    hidden: Bool[Tensor, "batch patches"] | None = None,
) -> MergePairs:
    """Match the `count` patches of A with the largest cosine to one of B.

    Args:
        keys: of each patch, the mean over the heads.
        hidden: patches that take no part: they merge first, which costs nothing, and
            are no targets.
    """
    direction = F.normalize(keys, dim=-1)
    scores = direction[:, ::2] @ direction[:, 1::2].transpose(1, 2)
    if hidden is not None:
        # Cosines lie between -1 and 1.
        scores = scores.masked_fill(hidden[:, None, 1::2], -2.0)
        scores = scores.masked_fill(hidden[:, ::2, None], 2.0)
    best, nearest = scores.max(dim=-1)
    order = best.topk(best.shape[1]).indices
    merged, unmerged = order[:, :count], order[:, count:].sort(dim=1).values
    return MergePairs(unmerged, merged, nearest.gather(1, merged))


def merge(
    x: Float[Tensor, "batch tokens dim"],
    keys: Float[Tensor, "batch tokens head_dim"],
    count: int,
    state: MergeState,
) -> tuple[Float[Tensor, "batch left dim"], MergeState]:
    """Merge `count` patches: the sequence becomes prefix, the rest of A, then B.

    Args:
        keys: compared keys: the mean over the heads of each token's key.
        count: at most half of the patches in `x`; at least one.
        state: patches of the tokens of `x`.
    """
    prefix = state.num_prefix_tokens
    hidden = None if state.takes_part is None else state.size[:, prefix:] == 0
    pairs = bipartite_match(keys[:, prefix:], count, hidden)
    first, second = slice(prefix, None, 2), slice(prefix + 1, None, 2)
    size = state.size[:, :, None]
    in_second = x[:, second].shape[1]
    assignment = _one_hot(pairs.dst_idx, in_second).to(size.dtype)
    merged_sizes = gather_tokens(size[:, first], pairs.src_idx)
    grown = size[:, second] + assignment @ merged_sizes
    total = size[:, second] * x[:, second]
    total = total + assignment @ (
        merged_sizes * gather_tokens(x[:, first], pairs.src_idx)
    )
    # A token of hidden patches alone has size 0: it becomes 0 and stays hidden.
    joined = total / (grown if hidden is None else grown.clamp(min=1))
    left = torch.cat(
        [x[:, :prefix], gather_tokens(x[:, first], pairs.unm_idx), joined.to(x.dtype)],
        dim=1,
    )
    sizes = [state.size[:, :prefix], gather_tokens(state.size[:, first], pairs.unm_idx)]
    source = _position_map(pairs, prefix, in_second).gather(1, state.source)
    size = torch.cat([*sizes, grown[..., 0]], dim=1)
    return left, state._replace(size=size, source=source)


def _one_hot(
    index: Int[Tensor, "batch chosen"], number: int
) -> Bool[Tensor, "batch number chosen"]:
    """Return columns with a one in row index[i]; a product sums columns by row."""
    return index[:, None, :] == torch.arange(number, device=index.device)[:, None]


def _position_map(
    merge_pairs: MergePairs, prefix: int, in_second: int
) -> Int[Tensor, "batch tokens_before"]:
    """Return the new index of each old token, prefix tokens included."""
    batch, unmerged = merge_pairs.unm_idx.shape
    device = merge_pairs.unm_idx.device
    stay = torch.arange(prefix, prefix + unmerged, device=device).expand(batch, -1)
    start = prefix + unmerged
    indices = torch.cat([stay, start + merge_pairs.dst_idx], dim=1)
    first_indices = scatter_tokens(
        indices,
        torch.cat([merge_pairs.unm_idx, merge_pairs.src_idx], dim=1),
        indices.shape[1],
    )
    second_indices = torch.arange(start, start + in_second, device=device).expand(
        batch, -1
    )
    pairs = torch.stack([first_indices[:, :in_second], second_indices], dim=2).flatten(
        1
    )
    prefix_indices = torch.arange(prefix, device=device).expand(batch, -1)
    return torch.cat([prefix_indices, pairs, first_indices[:, in_second:]], dim=1)


def merge_matrix(
    merged: MergeState,
) -> Float[Tensor, "batch tokens tokens_of_the_image"]:
    """Return the share of each original token in each remaining token.

    A row sums to one, or is zero for a token of hidden patches alone.
    """
    prefix, (batch, left) = merged.num_prefix_tokens, merged.size.shape
    shares = _one_hot(merged.source, left).to(merged.size.dtype)
    if merged.takes_part is not None:
        shares = shares * merged.takes_part[:, None, :]
    shares = shares / merged.size[:, :, None].clamp(min=1)
    prefix_shares = torch.eye(left, prefix, dtype=shares.dtype, device=shares.device)
    return torch.cat([prefix_shares.expand(batch, -1, -1), shares], dim=2)


def token_map(merged: MergeState) -> Int[Tensor, "batch tokens_of_the_image"]:
    """Return the token of the sequence that stands for each original token."""
    prefix = torch.arange(merged.num_prefix_tokens, device=merged.source.device)
    return torch.cat([prefix.expand(merged.source.shape[0], -1), merged.source], dim=1)


def expand_weights(
    weights: Float[Tensor, "batch heads tokens tokens"],
    merged: MergeState,
) -> Float[Tensor, "batch heads tokens_of_the_image tokens_of_the_image"]:
    """Expand attention between merged tokens to all patches.

    Every patch has the row of its token, and an equal share of its token's column: rows
    sum to one as before.
    """
    index = token_map(merged)
    share = 1 / merged.size.clamp(min=1).gather(1, index)
    if merged.takes_part is not None:
        share[:, merged.num_prefix_tokens :] *= merged.takes_part
    rows = gather_tokens(weights.transpose(1, 2), index).transpose(1, 2)
    columns = index[:, None, None, :].expand(*rows.shape[:3], -1)
    return rows.gather(3, columns) * share[:, None, None, :].to(weights.dtype)
