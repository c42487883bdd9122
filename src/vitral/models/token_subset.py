"""Select tokens of a sequence, and scatter features back to every patch."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.layers import gather_tokens, scatter_tokens
from vitral.models.features import Tokens


def select_tokens(
    tokens: Tokens, keep_indices: Int[Tensor, "batch kept"], prefix: int
) -> Tokens:
    """Select the prefix tokens and the patches at the raster indices `keep_indices`."""
    rows = prefix_indices(keep_indices, prefix)
    mask = None if tokens.mask is None else gather_tokens(tokens.mask, rows)
    return tokens._replace(
        x=gather_tokens(tokens.x, rows), mask=mask, keep_indices=keep_indices
    )


def prefix_indices(
    keep_indices: Int[Tensor, "batch kept"], prefix: int
) -> Int[Tensor, "batch tokens"]:
    """Return indices in the full sequence: all prefix tokens, then the patches."""
    prefix_index = torch.arange(prefix, device=keep_indices.device).expand(
        keep_indices.shape[0], -1
    )
    return torch.cat([prefix_index, keep_indices + prefix], dim=1)


def scatter_to_grid(
    patches: Float[Tensor, "batch kept dim"], tokens: Tokens, prefix: int
) -> tuple[
    Float[Tensor, "batch rows columns dim"], Bool[Tensor, "batch rows columns"] | None
]:
    """Return the patches in the image's geometry, and the mask of those that take part.

    A dropped patch is zero and takes no part; a merged one has the vector of its token.
    """
    shape = (tokens.rows, tokens.columns)
    mask = None if tokens.mask is None else tokens.mask[:, prefix:]
    if tokens.keep_indices is not None:
        count = tokens.rows * tokens.columns
        present = (
            torch.ones_like(tokens.keep_indices, dtype=torch.bool)
            if mask is None
            else mask
        )
        mask = scatter_tokens(present, tokens.keep_indices, count)
        patches = scatter_tokens(patches, tokens.keep_indices, count)
    if tokens.merged is not None:
        mask = tokens.merged.takes_part
        patches = gather_tokens(patches, tokens.merged.source - prefix)
    return patches.unflatten(1, shape), None if mask is None else mask.unflatten(
        1, shape
    )


def merge_map(tokens: Tokens, prefix: int) -> Int[Tensor, "batch rows columns"] | None:
    """Return the token that each patch was merged into; None without merging."""
    if tokens.merged is None:
        return None
    source = tokens.merged.source - prefix
    return source.unflatten(1, (tokens.rows, tokens.columns))
