"""Patch dropout: train on a random share of each image's patches.

Sources: arXiv 2212.00794 (FLIP) and 2208.07220. Attention among fewer patches makes a
step cheaper.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


class PatchDropout(nn.Module):
    """Draw the patches that stay; no random numbers in eval mode or at rate 0."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(
        self, patches: Float[Tensor, "batch patches dim"]
    ) -> Int[Tensor, "batch kept"] | None:
        """Return the raster indices of the patches that stay, rising; None for all."""
        if self.rate == 0.0 or not self.training:
            return None
        batch, count, _ = patches.shape
        noise = torch.rand(batch, count, device=patches.device)
        return noise.argsort(dim=1)[:, : num_kept(count, self.rate)].sort(dim=1).values


def num_kept(patches: int, rate: float) -> int:
    """Return the number of patches that stay: rounded down, at least one."""
    # 15 * (1 - 0.8) is 2.9999999999999996.
    return max(1, int(round(patches * (1 - rate), 6)))


def gather_tokens(
    x: Shaped[Tensor, "batch rows *rest"], index: Int[Tensor, "batch chosen"]
) -> Shaped[Tensor, "batch chosen *rest"]:
    """Return the rows of each example at its indices."""
    expanded = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    return x.gather(1, expanded.expand(-1, -1, *x.shape[2:]))


def scatter_tokens(
    rows: Shaped[Tensor, "batch chosen *rest"],
    index: Int[Tensor, "batch chosen"],
    number: int,
) -> Shaped[Tensor, "batch rows *rest"]:
    """Scatter rows to their indices among `number`, zeros at all others."""
    expanded = index.reshape(*index.shape, *[1] * (rows.ndim - 2))
    result = rows.new_zeros(rows.shape[0], number, *rows.shape[2:])
    return result.scatter(1, expanded.expand(-1, -1, *rows.shape[2:]), rows)
