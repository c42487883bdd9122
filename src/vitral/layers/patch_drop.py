"""Patch dropout: a random share of the patches is left out of training.

Sources: arXiv 2212.00794 (FLIP) and 2208.07220. Attention is computed among those that
stay, so a step is cheaper; which stay is drawn for each image.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


class PatchDropout(nn.Module):
    """Draws which patches stay; no numbers are drawn in eval mode or at rate 0."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(
        self, patches: Float[Tensor, "batch patches dim"]
    ) -> Int[Tensor, "batch kept"] | None:
        """Raster indices of the patches that stay, rising; None when all do."""
        if self.rate == 0.0 or not self.training:
            return None
        batch, number, _ = patches.shape
        noise = torch.rand(batch, number, device=patches.device)
        return noise.argsort(dim=1)[:, : num_kept(number, self.rate)].sort(dim=1).values


def num_kept(patches: int, rate: float) -> int:
    """How many stay: their share rounded down, at least one."""
    # 15 * (1 - 0.8) is 2.9999999999999996.
    return max(1, int(round(patches * (1 - rate), 6)))


def gather_tokens(
    x: Shaped[Tensor, "batch rows *rest"], index: Int[Tensor, "batch chosen"]
) -> Shaped[Tensor, "batch chosen *rest"]:
    """The rows of each example at its indices."""
    place = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    return x.gather(1, place.expand(-1, -1, *x.shape[2:]))


def scatter_tokens(
    rows: Shaped[Tensor, "batch chosen *rest"],
    index: Int[Tensor, "batch chosen"],
    number: int,
) -> Shaped[Tensor, "batch rows *rest"]:
    """The rows at their indices among `number`, zeros at all others."""
    place = index.reshape(*index.shape, *[1] * (rows.ndim - 2))
    whole = rows.new_zeros(rows.shape[0], number, *rows.shape[2:])
    return whole.scatter(1, place.expand(-1, -1, *rows.shape[2:]), rows)
