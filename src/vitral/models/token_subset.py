"""Sequences of fewer tokens than patches, and features with every patch in place."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.layers import put_back, rows_of
from vitral.models.features import Tokens


def thinned(tokens: Tokens, kept: Int[Tensor, "batch kept"], prefix: int) -> Tokens:
    """The tokens before the patches, and the patches at the raster indices `kept`."""
    rows = with_prefix(kept, prefix)
    mask = None if tokens.mask is None else rows_of(tokens.mask, rows)
    return tokens._replace(x=rows_of(tokens.x, rows), mask=mask, kept=kept)


def with_prefix(
    kept: Int[Tensor, "batch kept"], prefix: int
) -> Int[Tensor, "batch tokens"]:
    """Places in the whole sequence: those of all prefix tokens, then the patches'."""
    before = torch.arange(prefix, device=kept.device).expand(kept.shape[0], -1)
    return torch.cat([before, kept + prefix], dim=1)


def in_place(
    patches: Float[Tensor, "batch kept dim"], tokens: Tokens, prefix: int
) -> tuple[
    Float[Tensor, "batch rows columns dim"], Bool[Tensor, "batch rows columns"] | None
]:
    """The patches in the image's geometry, and which of them take part.

    One that was left out is zero and takes no part; one that was merged has the vector
    of its token.
    """
    shape = (tokens.rows, tokens.columns)
    mask = None if tokens.mask is None else tokens.mask[:, prefix:]
    if tokens.kept is not None:
        number = tokens.rows * tokens.columns
        there = torch.ones_like(tokens.kept, dtype=torch.bool) if mask is None else mask
        mask = put_back(there, tokens.kept, number)
        patches = put_back(patches, tokens.kept, number)
    if tokens.merged is not None:
        mask = tokens.merged.takes_part
        patches = rows_of(patches, tokens.merged.source - prefix)
    return patches.unflatten(1, shape), None if mask is None else mask.unflatten(
        1, shape
    )


def source_of(tokens: Tokens, prefix: int) -> Int[Tensor, "batch rows columns"] | None:
    """Which token each patch was merged into; None where none were merged."""
    if tokens.merged is None:
        return None
    source = tokens.merged.source - prefix
    return source.unflatten(1, (tokens.rows, tokens.columns))
