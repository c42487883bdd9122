"""What every model hands from its body to its head."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.layers import MergeState


class Features(NamedTuple):
    """The encoder's output after the final norm."""

    cls: Float[Tensor, "batch dim"] | None
    """The class token; None for a model that has none."""
    patches: Float[Tensor, "batch *frames rows columns dim"]
    """One vector per patch, in the image's own geometry."""
    mask: Bool[Tensor, "batch rows columns"] | None = None
    """Which patches take part; None when all do. One that was left out of training is
    zero in `patches` and takes no part."""
    distillation: Float[Tensor, "batch dim"] | None = None
    """The distillation token; None for a model that has none."""
    source: Int[Tensor, "batch rows columns"] | None = None
    """Which token each patch was merged into, counted from the first patch; patches of
    one number have the same vector. None where none were merged."""


class Tokens(NamedTuple):
    """The sequence between two blocks, with what is needed to go on."""

    x: Float[Tensor, "batch tokens dim"]
    rows: int
    columns: int
    mask: Bool[Tensor, "batch tokens"] | None = None
    words: Float[Tensor, "batch patches words inner"] | None = None
    """Tokens inside each patch; None for a model that has none."""
    keep_indices: Int[Tensor, "batch patches"] | None = None
    """Raster indices of the patches that are in `x`; None when all are."""
    merged: MergeState | None = None
    """What the tokens of `x` stand for; None for themselves."""
