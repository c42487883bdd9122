"""Interpolation as a matrix: each new cell is a weighted sum of old ones.

Unlike `torch.nn.functional.interpolate`, the weights are plain arithmetic on the two
sizes, so an exported graph of any image size can contain them. Positions are whole
cells and a remainder, both exact, for runtimes without float64.

Every function takes the new cells, as whole numbers, and both sizes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CUBIC = -0.75
"""Slope of torch's bicubic kernel, as in OpenCV."""
CUBIC_ANTIALIAS = -0.5
"""Slope of torch's bicubic kernel with antialias, and of Pillow's."""


class SamplePositions(NamedTuple):
    """Positions of new cells among the old ones: `first + share`."""

    first: Int[Tensor, "new"]
    share: Float[Tensor, "new"]
    """From 0 to, not including, 1."""

    def distances(self, old: int) -> Float[Tensor, "new old"]:
        """Return the signed distance from each new cell to each old one."""
        cells = torch.arange(old, device=self.first.device)
        offsets = self.first[:, None] - cells
        return offsets.to(self.share.dtype) + self.share[:, None]


def linear_align_corners(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Interpolate linearly, the first and the last cell kept (`align_corners=True`)."""
    positions = _divide(new_indices * (old - 1), symbolic_max(new - 1, 1), dtype)
    return _tent(positions.distances(old))


def linear(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Interpolate linearly between the centres of cells; the border is repeated."""
    first, share = _center_positions(new_indices, old, new, dtype)
    inside = (first >= 0) & (first < old - 1)
    positions = SamplePositions(_clamp(first, old), share * inside.to(dtype))
    return _tent(positions.distances(old))


def cubic(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Interpolate cubically between the centres of cells; the border is repeated."""
    first, share = _center_positions(new_indices, old, new, dtype)
    cells = torch.arange(old, device=new_indices.device)
    total = 0 * SamplePositions(first, share).distances(old)
    for tap in (-1, 0, 1, 2):
        weight = _cubic_kernel((share - tap).abs(), CUBIC)
        hit = _clamp(first + tap, old)[:, None] == cells
        total = total + weight[:, None] * hit.to(dtype)
    return total


def linear_antialias(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Interpolate linearly, with a low-pass that widens for shrinking (Pillow's)."""
    return _normalize_rows(_tent(_antialias_distances(new_indices, old, new, dtype)))


def cubic_antialias(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Interpolate cubically, with a low-pass that widens for shrinking (Pillow's)."""
    distance = _antialias_distances(new_indices, old, new, dtype).abs()
    return _normalize_rows(_cubic_kernel(distance, CUBIC_ANTIALIAS))


def nearest(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Take the old cell in which a new one starts, rounded as torch rounds it."""
    # float32 as in torch's kernel: 3 * (1 / 3) must fall on the same side.
    one = torch.ones((), device=new_indices.device)
    cell = (new_indices.float() * (one * old / (one * new))).floor()
    cells = torch.arange(old, device=new_indices.device)
    return (_clamp(cell.long(), old)[:, None] == cells).to(dtype)


def nearest_exact(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Take the old cell that holds the centre of a new one, as Pillow's."""
    cell = ((2 * new_indices + 1) * old) // (2 * new)
    cells = torch.arange(old, device=new_indices.device)
    return (cell[:, None] == cells).to(dtype)


def geometric(
    new_indices: Int[Tensor, "new"], old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Interpolate linearly between old cells that stand ever farther from the middle.

    For offsets of an odd number (BEiT's authors): the distances from the middle grow
    geometrically, so that near offsets keep their values and the last ones meet.
    """
    half = old // 2
    ratio, distances, step = _ratio(half, new // 2), [0.0], 1.0
    for _ in range(half):
        distances.append(distances[-1] + step)
        step *= ratio
    points = [-it for it in reversed(distances[1:])] + distances
    target = (new_indices - new // 2).to(dtype).clamp(points[0], points[-1])
    # The hat of each old cell; the first and the last have one slope.
    weights = []
    for index, point in enumerate(points):
        rise = fall = torch.ones_like(target)
        if index:
            rise = 1 + (target - point) / (point - points[index - 1])
        if index + 1 < old:
            fall = 1 - (target - point) / (points[index + 1] - point)
        weights.append(torch.minimum(rise, fall).clamp_min(0))
    return torch.stack(weights, dim=1)


def _ratio(count: int, reach: int) -> float:
    """Return the ratio from 1.01 to 1.5 whose `count` powers sum to `reach`."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**count) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    return (low + high) / 2


def symbolic_max(first: int, second: int) -> int:
    """Return the larger of two sizes, also of sizes unknown during tracing."""
    larger: int = torch.sym_max(first, second)  # type: ignore[assignment]
    return larger


def _center_positions(
    new_indices: Tensor, old: int, new: int, dtype: torch.dtype
) -> SamplePositions:
    # A whole cell to the right and back: runtimes differ in dividing negatives.
    positions = _divide((2 * new_indices + 1) * old + new, 2 * new, dtype)
    return SamplePositions(positions.first - 1, positions.share)


def _divide(dividend: Tensor, by: int, dtype: torch.dtype) -> SamplePositions:
    first = dividend // by
    return SamplePositions(first, (dividend - first * by).to(dtype) / by)


def _clamp(cell: Tensor, old: int) -> Tensor:
    return torch.minimum(cell.clamp_min(0), torch.ones_like(cell) * (old - 1))


def _antialias_distances(
    new_indices: Tensor, old: int, new: int, dtype: torch.dtype
) -> Float[Tensor, "new old"]:
    """Return distances in units of the filter's width."""
    distance = _center_positions(new_indices, old, new, dtype).distances(old)
    return distance * new / symbolic_max(old, new)


def _normalize_rows(weight: Float[Tensor, "new old"]) -> Float[Tensor, "new old"]:
    return weight / weight.sum(dim=1, keepdim=True)


def _tent(distance: Float[Tensor, "new old"]) -> Float[Tensor, "new old"]:
    return (1 - distance.abs()).clamp_min(0)


def _cubic_kernel(distance: Tensor, slope: float) -> Tensor:
    """Evaluate Keys' convolution kernel with the slope at distance 1."""
    near = ((slope + 2) * distance - (slope + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance - 4
    weight = torch.where(distance <= 1, near, slope * far)
    return torch.where(distance < 2, weight, torch.zeros_like(weight))
