"""Token merging: the tokens that are most alike become one (arXiv 2210.09461).

    a patch of even place looks for the patch of odd place whose key is most alike;
    the `count` patches with the best match join it: a mean, weighted by their sizes

A token of size s stands for s patches, and attention counts it so: log s is added to
its logits, which is what s equal keys would get (section 3, proportional attention).
Only shapes decide how many tokens there are afterwards, so a graph can be exported.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from vitral.layers.patch_drop import gather_tokens, scatter_tokens


class MergeState(NamedTuple):
    """What the tokens of a sequence stand for, once patches have been merged."""

    size: Float[Tensor, "batch tokens"]
    """How many patches that take part are in each token; 1 for a prefix token."""
    source: Int[Tensor, "batch patches"]
    """The token of each patch of the image, in the whole sequence."""
    num_prefix_tokens: int
    """Tokens before the patches, which are never merged."""
    takes_part: Bool[Tensor, "batch patches"] | None = None
    """Which patches of the image take part; None when all do."""

    @property
    def is_identity(self) -> bool:
        """Whether every token still stands for itself."""
        tokens, patches = self.size.shape[1], self.source.shape[1]
        return tokens == self.num_prefix_tokens + patches


class MergePairs(NamedTuple):
    """Which patches join which. A are the patches at even places, B those between."""

    unm_idx: Int[Tensor, "batch kept"]
    """Places in A of those that stay, rising."""
    src_idx: Int[Tensor, "batch gone"]
    """Places in A of those that join another."""
    dst_idx: Int[Tensor, "batch gone"]
    """Places in B of the ones they join; several may join the same."""


def num_merged(patches: int, rate: int) -> int:
    """How many of so many patches are merged in one block: `rate`, at most half."""
    return min(rate, patches // 2)


def initial_merge_state(
    x: Float[Tensor, "batch tokens dim"],
    num_prefix_tokens: int,
    takes_part: Bool[Tensor, "batch tokens"] | None,
) -> MergeState:
    """Every token stands for itself; one that takes no part for nothing."""
    batch, tokens, _ = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    places = torch.arange(num_prefix_tokens, tokens, device=x.device)
    source = places.expand(batch, -1)
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
    """The `count` patches of A whose cosine with one of B is the largest.

    Args:
        keys: of each patch, the mean over the heads.
        hidden: patches that take no part: they go first, for that costs nothing, and
            nobody looks for them.
    """
    direction = F.normalize(keys, dim=-1)
    scores = direction[:, ::2] @ direction[:, 1::2].transpose(1, 2)
    if hidden is not None:
        # Cosines lie between -1 and 1.
        scores = scores.masked_fill(hidden[:, None, 1::2], -2.0)
        scores = scores.masked_fill(hidden[:, ::2, None], 2.0)
    best, nearest = scores.max(dim=-1)
    order = best.topk(best.shape[1]).indices
    gone, kept = order[:, :count], order[:, count:].sort(dim=1).values
    return MergePairs(kept, gone, nearest.gather(1, gone))


def merge(
    x: Float[Tensor, "batch tokens dim"],
    keys: Float[Tensor, "batch tokens head_dim"],
    count: int,
    state: MergeState,
) -> tuple[Float[Tensor, "batch left dim"], MergeState]:
    """The sequence with `count` patches fewer: prefix, what is left of A, then B.

    Args:
        keys: what is compared: the mean over the heads of each token's key.
        count: at most half of the patches in `x`; at least one.
        state: what the tokens of `x` stand for.
    """
    prefix = state.num_prefix_tokens
    hidden = None if state.takes_part is None else state.size[:, prefix:] == 0
    found = bipartite_match(keys[:, prefix:], count, hidden)
    first, second = slice(prefix, None, 2), slice(prefix + 1, None, 2)
    size = state.size[:, :, None]
    in_second = x[:, second].shape[1]
    joins = _one_hot(found.dst_idx, in_second).to(size.dtype)
    gone = gather_tokens(size[:, first], found.src_idx)
    grown = size[:, second] + joins @ gone
    together = size[:, second] * x[:, second]
    together = together + joins @ (gone * gather_tokens(x[:, first], found.src_idx))
    # A token of hidden patches alone has size 0: it becomes 0, and stays hidden.
    joined = together / (grown if hidden is None else grown.clamp(min=1))
    left = torch.cat(
        [x[:, :prefix], gather_tokens(x[:, first], found.unm_idx), joined.to(x.dtype)],
        dim=1,
    )
    sizes = [state.size[:, :prefix], gather_tokens(state.size[:, first], found.unm_idx)]
    source = _position_map(found, prefix, in_second).gather(1, state.source)
    size = torch.cat([*sizes, grown[..., 0]], dim=1)
    return left, state._replace(size=size, source=source)


def _one_hot(
    index: Int[Tensor, "batch chosen"], number: int
) -> Bool[Tensor, "batch number chosen"]:
    """Column i has its one in row index[i]; a product adds up what has one place."""
    return index[:, None, :] == torch.arange(number, device=index.device)[:, None]


def _position_map(
    merge_pairs: MergePairs, prefix: int, in_second: int
) -> Int[Tensor, "batch tokens_before"]:
    """The new place of each token of the sequence before, prefix tokens included."""
    batch, kept = merge_pairs.unm_idx.shape
    device = merge_pairs.unm_idx.device
    stay = torch.arange(prefix, prefix + kept, device=device).expand(batch, -1)
    start = prefix + kept
    places = torch.cat([stay, start + merge_pairs.dst_idx], dim=1)
    of_first = scatter_tokens(
        places,
        torch.cat([merge_pairs.unm_idx, merge_pairs.src_idx], dim=1),
        places.shape[1],
    )
    of_second = torch.arange(start, start + in_second, device=device).expand(batch, -1)
    pairs = torch.stack([of_first[:, :in_second], of_second], dim=2).flatten(1)
    before = torch.arange(prefix, device=device).expand(batch, -1)
    return torch.cat([before, pairs, of_first[:, in_second:]], dim=1)


def merge_matrix(
    merged: MergeState,
) -> Float[Tensor, "batch tokens tokens_of_the_image"]:
    """The share that each token of the whole image has in each token that is left.

    A row sums to one, or is zero for a token of hidden patches alone.
    """
    prefix, (batch, left) = merged.num_prefix_tokens, merged.size.shape
    shares = _one_hot(merged.source, left).to(merged.size.dtype)
    if merged.takes_part is not None:
        shares = shares * merged.takes_part[:, None, :]
    shares = shares / merged.size[:, :, None].clamp(min=1)
    own = torch.eye(left, prefix, dtype=shares.dtype, device=shares.device)
    return torch.cat([own.expand(batch, -1, -1), shares], dim=2)


def token_map(merged: MergeState) -> Int[Tensor, "batch tokens_of_the_image"]:
    """Which token of the sequence stands for each token of the whole image."""
    before = torch.arange(merged.num_prefix_tokens, device=merged.source.device)
    return torch.cat([before.expand(merged.source.shape[0], -1), merged.source], dim=1)


def expand_weights(
    weights: Float[Tensor, "batch heads tokens tokens"],
    merged: MergeState,
) -> Float[Tensor, "batch heads tokens_of_the_image tokens_of_the_image"]:
    """Attention between merged tokens as it is between the patches that they are.

    Every patch has the row of its token, and an equal share of its token's column: rows
    sum to one as before.
    """
    place = token_map(merged)
    share = 1 / merged.size.clamp(min=1).gather(1, place)
    if merged.takes_part is not None:
        share[:, merged.num_prefix_tokens :] *= merged.takes_part
    rows = gather_tokens(weights.transpose(1, 2), place).transpose(1, 2)
    columns = place[:, None, None, :].expand(*rows.shape[:3], -1)
    return rows.gather(3, columns) * share[:, None, None, :].to(weights.dtype)


def gather_patch_rows(
    rows: Shaped[Tensor, "batch tokens *rest"], merged: MergeState
) -> Shaped[Tensor, "batch patches *rest"]:
    """Of each patch of the image, the row of its token."""
    return gather_tokens(rows, merged.source)
