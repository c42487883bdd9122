"""Maps over the grid of patches, and the logits that they explain."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.layers import Grid
from vitral.models import VisionModel


@dataclass(frozen=True, slots=True)
class Geometry:
    """Position of the patches among the tokens, and the row of a matrix to read."""

    grid: Grid
    num_prefix_tokens: int
    mask: Bool[Tensor, "batch rows columns"] | None
    """True for patches that take part. None: all of them."""
    by_class_token: bool
    """Read the class token's row, otherwise the mean of the patches' rows."""


def patch_map(
    matrix: Float[Tensor, "batch tokens tokens"], geometry: Geometry
) -> Float[Tensor, "batch rows columns"]:
    """Return a row of the matrix without its prefix tokens, as a grid."""
    prefix = geometry.num_prefix_tokens
    if geometry.by_class_token:
        row = matrix[:, 0, prefix:]
    else:
        rows = matrix[:, prefix:, prefix:]
        if geometry.mask is not None:
            # A map is scaled later, so the mean may run over all rows.
            rows = rows * geometry.mask.flatten(1)[:, :, None]
        row = rows.mean(dim=1)
    return row.unflatten(1, tuple(geometry.grid))


def normalize_by_max(
    maps: Float[Tensor, "batch *frames rows columns"],
) -> Float[Tensor, "batch *frames rows columns"]:
    """Divide each map by its largest value; a map without a positive one is zero.

    The map of a clip is one map, so its frames can be compared.
    """
    peak = maps.amax(dim=tuple(range(1, maps.ndim)), keepdim=True)
    return (maps / peak.where(peak > 0, 1.0)).where(peak > 0, 0.0)


def require_head(model: VisionModel) -> None:
    """Raise ConfigError if the model has no head: its output is features."""
    if model.config.num_classes == 0:
        raise ConfigError(
            "The model has no head, so there is no class whose evidence could be "
            "shown: load it with `num_classes`, train it, or use rollout."
        )


def sum_target_logits(
    logits: Float[Tensor, "batch classes"],
    classes: Int[Tensor, "named"] | int | None,
) -> Float[Tensor, ""]:
    """Return the sum over the images of the logits to explain; images do not mix.

    Args:
        classes: one for all images, one for each, or None for the predicted ones.

    Raises:
        ConfigError: a class that the model does not have, or a number of classes that
            differs from the number of images.
    """
    batch, count = logits.shape
    if classes is None:
        index = logits.argmax(dim=1)
    else:
        index = torch.as_tensor(classes).to(logits.device).long()
        if index.ndim and len(index) != batch:
            raise ConfigError(
                f"`classes` must be one number or one for each image, {batch}: got "
                f"{len(index)}."
            )
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= count:
            raise ConfigError(
                f"`classes` must lie between 0 and {count - 1}, because the model has "
                f"{count} classes: got {low if low < 0 else high}."
            )
        index = index.expand(batch)
    return logits.gather(1, index[:, None]).sum()
