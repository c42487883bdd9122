"""Patch features as colours: what the model takes for alike gets the same colour.

The picture of arXiv 2304.07193 (section 7.5): three principal components of the patch
features over all images of the batch as red, green and blue.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import batched, evaluating
from vitral.models import VisionModel

TAILS = (0.01, 0.99)
"""Quantiles that become 0 and 1; a few odd patches would take all the range."""


def feature_colours(
    model: VisionModel, images: Float[Tensor, "batch *image"]
) -> Float[Tensor, "batch *frames rows columns 3"]:
    """One colour per patch, 0 to 1, float64, on the CPU.

    Colours of one call can be compared between its images, not with another call's.
    Any model will do; a ResNet's patches are the cells of its last map, and those of a
    clip come frame by frame.

    Raises:
        ConfigError: there are fewer than four patches in all, or three channels.
    """
    with torch.no_grad(), evaluating(model.modules()):
        patches = model.forward_features(batched(model, images)).patches
    rows = patches.flatten(0, -2).double().cpu()
    if rows.shape[0] < 4 or rows.shape[1] < 3:
        raise ConfigError(
            "Three components need at least four patches of three channels: got "
            f"{rows.shape[0]} patches of {rows.shape[1]} channels."
        )
    found = principal(rows, 3)
    colours = (rows - found.mean) @ found.directions.T
    low, high = torch.quantile(colours, torch.tensor(TAILS).to(colours), dim=0)
    # Without variance there is nothing to tell apart: rounding must not become colour.
    noise = 1e-9 * rows.abs().max()
    span = (high - low).where(high - low > noise, torch.inf)
    return ((colours - low) / span).clamp(0, 1).view(*patches.shape[:-1], 3)


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
