"""Principal components of a few thousand rows, by singular values in float64."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Principal(NamedTuple):
    """Directions of the largest variance, and what they hold."""

    directions: Float[Tensor, "n features"]
    """Orthonormal rows; the largest entry of each is positive."""
    share: Float[Tensor, " n"]
    """Each one's share of the variance; zero if there is none."""
    mean: Float[Tensor, " features"]
    """What was taken off before."""


def principal(rows: Float[Tensor, "rows features"], n: int) -> Principal:
    """The first `n` components of `rows`, at most min(rows, features) of them."""
    wide = rows.double()
    mean = wide.mean(dim=0)
    centred = wide - mean
    if wide.shape[0] > wide.shape[1]:
        # The triangle has the same singular values and directions, and fewer rows.
        centred = torch.linalg.qr(centred, mode="r").R
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:n]
    peak = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, peak).sign()
    variance = values**2
    total = variance.sum()
    share = variance[:n] / total if total > 0 else torch.zeros_like(variance[:n])
    return Principal(directions, share, mean)
