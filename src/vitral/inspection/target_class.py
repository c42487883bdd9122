"""The logit that a map explains."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitral.errors import ConfigError
from vitral.models import VisionModel


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
