"""From a matrix of tokens to a map in the geometry of the patches."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from vitral.layers import Grid


class Geometry(NamedTuple):
    """Where the patches are among the tokens, and which row of a matrix counts."""

    grid: Grid
    num_prefix_tokens: int
    mask: Bool[Tensor, "batch rows columns"] | None
    """Which patches take part; None when all do."""
    by_class_token: bool
    """Take the class token's row; otherwise the mean of the patches' rows."""


def patch_map(
    matrix: Float[Tensor, "batch tokens tokens"], geometry: Geometry
) -> Float[Tensor, "batch rows columns"]:
    """How much each patch counts: a row of the matrix without its prefix tokens."""
    prefix = geometry.num_prefix_tokens
    if geometry.by_class_token:
        row = matrix[:, 0, prefix:]
    else:
        rows = matrix[:, prefix:, prefix:]
        if geometry.mask is not None:
            # A factor does not matter to a map, so all rows are counted.
            rows = rows * geometry.mask.flatten(1)[:, :, None]
        row = rows.mean(dim=1)
    return row.unflatten(1, tuple(geometry.grid))


def normalize_by_max(
    maps: Float[Tensor, "batch *frames rows columns"],
) -> Float[Tensor, "batch *frames rows columns"]:
    """Each map divided by its largest value; a map without a positive one is zero.

    The map of a clip is one map: its frames can be compared.
    """
    peak = maps.amax(dim=tuple(range(1, maps.ndim)), keepdim=True)
    return (maps / peak.where(peak > 0, 1.0)).where(peak > 0, 0.0)
