"""Maps over the grid of patches, from matrices over tokens."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from vitral.layers import Grid


@dataclass(frozen=True, slots=True)
class Geometry:
    """Position of the patches among the tokens, and the row of a matrix to read."""

    grid: Grid
    num_prefix_tokens: int
    mask: Bool[Tensor, "batch rows columns"] | None
    """True for patches that take part. None: all of them."""
    by_class_token: bool
    """Read the class token's row, otherwise the mean of the patches' rows."""


def patch_map(
    matrix: Float[Tensor, "batch tokens tokens"], geometry: Geometry
) -> Float[Tensor, "batch rows columns"]:
    """Return a row of the matrix without its prefix tokens, as a grid."""
    prefix = geometry.num_prefix_tokens
    if geometry.by_class_token:
        row = matrix[:, 0, prefix:]
    else:
        rows = matrix[:, prefix:, prefix:]
        if geometry.mask is not None:
            # A map is scaled later, so the mean may run over all rows.
            rows = rows * geometry.mask.flatten(1)[:, :, None]
        row = rows.mean(dim=1)
    return row.unflatten(1, tuple(geometry.grid))


def normalize_by_max(
    maps: Float[Tensor, "batch *frames rows columns"],
) -> Float[Tensor, "batch *frames rows columns"]:
    """Divide each map by its largest value; a map without a positive one is zero.

    The map of a clip is one map, so its frames can be compared.
    """
    peak = maps.amax(dim=tuple(range(1, maps.ndim)), keepdim=True)
    return (maps / peak.where(peak > 0, 1.0)).where(peak > 0, 0.0)
