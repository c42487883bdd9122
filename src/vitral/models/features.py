"""Tokens between the blocks of a model, and features for its head."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.layers import Grid, MergeState

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
