"""What every model hands from its body to its head."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor


class Features(NamedTuple):
    """The encoder's output after the final norm."""

    cls: Float[Tensor, "batch dim"] | None
    """The class token; None for a model that has none."""
    patches: Float[Tensor, "batch *frames rows columns dim"]
    """One vector per patch, in the image's own geometry."""
    mask: Bool[Tensor, "batch rows columns"] | None = None
    """Which patches take part; None when all do."""
    distillation: Float[Tensor, "batch dim"] | None = None
    """The distillation token; None for a model that has none."""


class Tokens(NamedTuple):
    """The sequence between two blocks, with what is needed to go on."""

    x: Float[Tensor, "batch tokens dim"]
    rows: int
    columns: int
    mask: Bool[Tensor, "batch tokens"] | None = None
    words: Float[Tensor, "batch patches words inner"] | None = None
    """Tokens inside each patch; None for a model that has none."""
