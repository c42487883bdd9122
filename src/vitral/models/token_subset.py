"""Select tokens of a sequence, and scatter features back to every patch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitral.layers import gather_tokens, scatter_tokens
from vitral.models.features import Features, Tokens


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
    before = torch.arange(prefix, device=keep_indices.device)
    before = before.expand(keep_indices.shape[0], -1)
    return torch.cat([before, keep_indices + prefix], dim=1)


def scatter_to_grid(
    patches: Float[Tensor, "batch kept dim"], tokens: Tokens, prefix: int
) -> Features:
    """Return the patches in the image's geometry, and which of them take part.

    A dropped patch is zero and takes no part; a merged one has the vector of its token.
    """
    mask = None if tokens.mask is None else tokens.mask[:, prefix:]
    source = None
    if tokens.keep_indices is not None:
        present = mask
        if present is None:
            present = torch.ones_like(tokens.keep_indices, dtype=torch.bool)
        count = tokens.rows * tokens.columns
        mask = scatter_tokens(present, tokens.keep_indices, count)
        patches = scatter_tokens(patches, tokens.keep_indices, count)
    if tokens.merged is not None:
        mask, source = tokens.merged.takes_part, tokens.merged.source - prefix
        patches = gather_tokens(patches, source)
    shape = tuple(tokens.grid)
    return Features(
        cls=None,
        patches=patches.unflatten(1, shape),
        mask=None if mask is None else mask.unflatten(1, shape),
        source=None if source is None else source.unflatten(1, shape),
    )
