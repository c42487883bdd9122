"""Warp a picture by an affine map: one interpolation for all of its steps."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Warp(NamedTuple):
    """An affine map of a picture about its centre, in the order of the fields."""

    down: float = 0.0
    right: float = 0.0
    """Pixels of the shift, fractions included."""
    degrees: float = 0.0
    """Rotation counter-clockwise."""
    zoom: float = 1.0
    """Factor of both sides."""

    @property
    def is_identity(self) -> bool:
        return self == NO_WARP

    def matrix(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the map of (x, y) after the shift; y points down."""
        angle = math.radians(self.degrees)
        cos, sin = self.zoom * math.cos(angle), self.zoom * math.sin(angle)
        return (cos, sin), (-sin, cos)


NO_WARP = Warp()


def warp_image(
    pixels: Float[Tensor, "channels height width"],
    warp: Warp,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "channels height width"]:
    """Return the warped picture in its old size, edges repeated."""
    height, width = pixels.shape[1:]
    (a, b), (c, d) = warp.matrix()
    size = a * d - b * c
    # Maps a place in the result to its source; both sides range from -1 to 1.
    source = torch.tensor(
        [
            [
                [d / size, -b / size * height / width, -2 * warp.right / width],
                [-c / size * width / height, a / size, -2 * warp.down / height],
            ]
        ],
        dtype=pixels.dtype,
    )
    grid = F.affine_grid(source, [1, 1, height, width], align_corners=False)
    return F.grid_sample(
        pixels[None], grid, mode=mode, padding_mode="border", align_corners=False
    )[0]


def warp_points(
    points: Float[Tensor, "*points 2"], warp: Warp, height: int, width: int
) -> Float[Tensor, "*points 2"]:
    """Return where points (x, y) in pixels of a picture of this size come to lie."""
    matrix = torch.tensor(warp.matrix(), dtype=points.dtype)
    center = torch.tensor([width / 2, height / 2], dtype=points.dtype)
    shift = torch.tensor([warp.right, warp.down], dtype=points.dtype)
    return (points + shift - center) @ matrix.T + center
