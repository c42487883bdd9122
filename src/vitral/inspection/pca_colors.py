"""Patch features as colours: what the model takes for alike gets the same colour.

The picture of arXiv 2304.07193 (section 7.5): three principal components of the patch
features over all images of the batch as red, green and blue.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import eval_mode, require_batch
from vitral.models import VisionModel

CLIP_QUANTILES = (0.01, 0.99)
"""Quantiles that become 0 and 1; a few odd patches would take all the range."""


def feature_colors(
    model: VisionModel, images: Float[Tensor, "batch *image"]
) -> Float[Tensor, "batch *frames rows columns 3"]:
    """One colour per patch, 0 to 1, float64, on the CPU.

    Colours of one call can be compared between its images, not with another call's.
    Any model will do; a ResNet's patches are the cells of its last map, and those of a
    clip come frame by frame.

    Raises:
        ConfigError: there are fewer than four patches in all, or three channels.
    """
    with torch.no_grad(), eval_mode(model.modules()):
        patches = model.forward_features(require_batch(model, images)).patches
    rows = patches.flatten(0, -2).double().cpu()
    if rows.shape[0] < 4 or rows.shape[1] < 3:
        raise ConfigError(
            "Three components need at least four patches of three channels: got "
            f"{rows.shape[0]} patches of {rows.shape[1]} channels."
        )
    found = fit_pca(rows, 3)
    colours = (rows - found.mean) @ found.components.T
    low, high = torch.quantile(colours, torch.tensor(CLIP_QUANTILES).to(colours), dim=0)
    # Without variance there is nothing to tell apart: rounding must not become colour.
    noise = 1e-9 * rows.abs().max()
    span = (high - low).where(high - low > noise, torch.inf)
    return ((colours - low) / span).clamp(0, 1).view(*patches.shape[:-1], 3)


class PrincipalComponents(NamedTuple):
    """Directions of the largest variance, and what they hold."""

    components: Float[Tensor, "n features"]
    """Orthonormal rows; the largest entry of each is positive."""
    explained_variance_ratio: Float[Tensor, " n"]
    """Each one's share of the variance; zero if there is none."""
    mean: Float[Tensor, " features"]
    """What was taken off before."""


def fit_pca(rows: Float[Tensor, "rows features"], n: int) -> PrincipalComponents:
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
    return PrincipalComponents(directions, share, mean)
