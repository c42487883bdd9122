"""Patch features as colours: similar features have similar colours.

As in arXiv 2304.07193 (section 7.5): three principal components of the patch features
over all images of the batch are red, green and blue.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import eval_mode, require_batch
from vitral.models import VisionModel

CLIP_QUANTILES = (0.01, 0.99)
"""Quantiles that become 0 and 1, so that a few outliers do not take all the range."""


def feature_colors(
    model: VisionModel, images: Float[Tensor, "batch *image"]
) -> Float[Tensor, "batch *frames rows columns 3"]:
    """Return one colour per patch, 0 to 1, float64, on the CPU.

    Colours can be compared between the images of one call only. Any model will do: a
    ResNet's patches are the cells of its last map, and a clip's are in frame order.

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
    pca = fit_pca(rows, 3)
    colors = (rows - pca.mean) @ pca.components.T
    low, high = torch.quantile(colors, torch.tensor(CLIP_QUANTILES).to(colors), dim=0)
    # Without variance, rounding must not become colour.
    noise = 1e-9 * rows.abs().max()
    span = (high - low).where(high - low > noise, torch.inf)
    return ((colors - low) / span).clamp(0, 1).view(*patches.shape[:-1], 3)


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """Directions of the largest variance, and their shares of it."""

    components: Float[Tensor, "n features"]
    """Orthonormal rows; the largest entry of each is positive."""
    explained_variance_ratio: Float[Tensor, " n"]
    """Share of the variance of each; zero if there is none."""
    mean: Float[Tensor, " features"]
    """Subtracted before the fit."""


def fit_pca(rows: Float[Tensor, "rows features"], n: int) -> PrincipalComponents:
    """Return the first `n` components of `rows`, at most min(rows, features)."""
    rows = rows.double()
    mean = rows.mean(dim=0)
    centered = rows - mean
    if rows.shape[0] > rows.shape[1]:
        # R has the same singular values and directions, and fewer rows.
        centered = torch.linalg.qr(centered, mode="r").R
    _, values, directions = torch.linalg.svd(centered, full_matrices=False)
    directions = directions[:n]
    peak = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, peak).sign()
    variance = values**2
    total = variance.sum()
    share = variance[:n] / total if total > 0 else torch.zeros_like(variance[:n])
    return PrincipalComponents(directions, share, mean)
