"""Patch features as colours: what the model takes for alike gets the same colour.

The picture of arXiv 2304.07193 (section 7.5): three principal components of the patch
features over all images of the batch as red, green and blue.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError
from vitral.inspection.capture import batched, evaluating
from vitral.inspection.principal import principal
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
