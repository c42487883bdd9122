"""Interpolation as a matrix: each new cell is a weighted sum of old ones.

`torch.nn.functional.interpolate` does the same with less memory. Here the weights are
made by plain arithmetic from the two sizes, so that they can be part of a graph that
does not know them (an exported model of any image size). Places are kept as whole
cells and a remainder, both exact, for runtimes that have no float64.

Every function takes the new cells that are wanted, as whole numbers, and both sizes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CUBIC = -0.75
"""Slope of torch's bicubic kernel, as in OpenCV."""
CUBIC_ANTIALIAS = -0.5
"""Slope of torch's bicubic kernel with antialias, and of Pillow's."""


class Places(NamedTuple):
    """Where new cells lie among the old ones: at `first + share`."""

    first: Int[Tensor, "new"]
    share: Float[Tensor, "new"]
    """From 0 to, not including, 1."""

    def distances(self, old: int) -> Float[Tensor, "new old"]:
        """From each new cell to each old one, with a sign."""
        cells = torch.arange(old, device=self.first.device)
        whole = self.first[:, None] - cells
        return whole.to(self.share.dtype) + self.share[:, None]


def corners(
    wanted: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Linear, the first and the last cell kept (`align_corners=True`)."""
    places = _places(wanted * (old - 1), larger(new - 1, 1), dtype)
    return _tent(places.distances(old))


def centres(
    wanted: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Linear between the centres of cells; the border is repeated."""
    first, share = _centres(wanted, old, new, dtype)
    inside = (first >= 0) & (first < old - 1)
    places = Places(_limited(first, old), share * inside.to(dtype))
    return _tent(places.distances(old))


def cubic(
    wanted: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Cubic between the centres of cells; the border is repeated."""
    first, share = _centres(wanted, old, new, dtype)
    cells = torch.arange(old, device=wanted.device)
    total = 0 * Places(first, share).distances(old)
    for tap in (-1, 0, 1, 2):
        weight = _cubic_kernel((share - tap).abs(), CUBIC)
        hit = _limited(first + tap, old)[:, None] == cells
        total = total + weight[:, None] * hit.to(dtype)
    return total


def linear_antialias(
    wanted: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Linear, with a low-pass that widens as the picture shrinks (Pillow's)."""
    return _normalised(_tent(_filtered(wanted, old, new, dtype)))


def cubic_antialias(
    wanted: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Cubic, with a low-pass that widens as the picture shrinks (Pillow's)."""
    distance = _filtered(wanted, old, new, dtype).abs()
    return _normalised(_cubic_kernel(distance, CUBIC_ANTIALIAS))


def nearest(
    wanted: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """The old cell in which a new one begins, rounded as torch rounds it."""
    # float32 as in torch's kernel: 3 * (1 / 3) must fall on the same side.
    one = torch.ones((), device=wanted.device)
    cell = (wanted.float() * (one * old / (one * new))).floor()
    cells = torch.arange(old, device=wanted.device)
    return (_limited(cell.long(), old)[:, None] == cells).to(dtype)


def nearest_centre(
    wanted: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """The old cell that holds the centre of a new one, as Pillow's."""
    cell = ((2 * wanted + 1) * old) // (2 * new)
    cells = torch.arange(old, device=wanted.device)
    return (cell[:, None] == cells).to(dtype)


def larger(one: int, other: int) -> int:
    """The larger of two sizes, also where a graph does not know them yet."""
    found: int = torch.sym_max(one, other)  # type: ignore[assignment]
    return found


def _centres(wanted: Tensor, old: int, new: int, dtype: torch.dtype) -> Places:
    # A whole cell to the right and back: runtimes differ in dividing negatives.
    places = _places((2 * wanted + 1) * old + new, 2 * new, dtype)
    return Places(places.first - 1, places.share)


def _places(number: Tensor, by: int, dtype: torch.dtype) -> Places:
    first = number // by
    return Places(first, (number - first * by).to(dtype) / by)


def _limited(cell: Tensor, old: int) -> Tensor:
    return torch.minimum(cell.clamp_min(0), torch.ones_like(cell) * (old - 1))


def _filtered(
    wanted: Tensor, old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Distances in units of the filter's width."""
    distance = _centres(wanted, old, new, dtype).distances(old)
    return distance * new / larger(old, new)


def _normalised(weight: Float[Tensor, "new old"]) -> Float[Tensor, "new old"]:
    return weight / weight.sum(dim=1, keepdim=True)


def _tent(distance: Float[Tensor, "new old"]) -> Float[Tensor, "new old"]:
    return (1 - distance.abs()).clamp_min(0)


def _cubic_kernel(distance: Tensor, slope: float) -> Tensor:
    """Keys' convolution kernel with the slope at distance 1."""
    near = ((slope + 2) * distance - (slope + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance - 4
    weight = torch.where(distance <= 1, near, slope * far)
    return torch.where(distance < 2, weight, torch.zeros_like(weight))
