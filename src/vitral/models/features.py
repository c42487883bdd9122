"""Tokens between the blocks of a model, a part of them, and features for its head."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.layers import Grid, MergeState, gather_tokens, scatter_tokens

Images = Float[Tensor, "batch *frames channels height width"]
"""A batch of images, or of clips where `config.num_frames` is not 0."""
PatchMask = Bool[Tensor, "batch rows columns"]
"""True where a patch takes part."""


class Features(NamedTuple):
    """Output of the encoder after the final norm."""

    cls: Float[Tensor, "batch dim"] | None
    """Class token; None for a model without one."""
    patches: Float[Tensor, "batch *frames rows columns dim"]
    """One vector per patch, in the image's own geometry."""
    mask: PatchMask | None = None
    """Patches that take part; None when all do. A patch that was dropped in training is
    zero in `patches` and takes no part."""
    distillation: Float[Tensor, "batch dim"] | None = None
    """Distillation token; None for a model without one."""
    source: Int[Tensor, "batch rows columns"] | None = None
    """Token that each patch was merged into, counted from the first patch: patches of
    one index have the same vector. None without merging."""


class Tokens(NamedTuple):
    """Sequence between two blocks, with its geometry and masks."""

    x: Float[Tensor, "batch tokens dim"]
    rows: int
    columns: int
    mask: Bool[Tensor, "batch tokens"] | None = None
    words: Float[Tensor, "batch patches words inner"] | None = None
    """Tokens inside each patch; None for a model without them."""
    keep_indices: Int[Tensor, "batch patches"] | None = None
    """Raster indices of the patches that are in `x`; None when all are."""
    merged: MergeState | None = None
    """Patches of each token of `x`; None without merging."""

    @property
    def grid(self) -> Grid:
        """Rows and columns of the patches of an image, or of a frame."""
        return Grid(self.rows, self.columns)


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
