"""Initialisers of the Vision Transformer (arXiv 2010.11929, released code).

torch's own versions differ: `trunc_normal_` does not correct the deviation that the
cut removes, and `xavier_uniform_` on a fused qkv matrix uses the wrong fan-out.
"""

import math

from jaxtyping import Float
from torch import Tensor, nn

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal that is cut at two standard deviations."""


def lecun_normal_(weight: Float[Tensor, "..."], fan_in: int) -> None:
    """Fill `weight` from a normal of deviation 1/sqrt(fan_in), cut at two sigma."""
    sigma = math.sqrt(1.0 / fan_in) / TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=sigma, a=-2 * sigma, b=2 * sigma)


def xavier_uniform_(weight: Float[Tensor, "rows in"], num_matrices: int = 1) -> None:
    """Fill each of the `num_matrices` matrices stacked in the rows of `weight`."""
    for matrix in weight.chunk(num_matrices, dim=0):
        nn.init.xavier_uniform_(matrix)
