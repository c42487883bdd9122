"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) on a batch.

One lambda per batch, and the batch rolled by one as partner, as in arXiv 2106.10270.
Works on images and clips, whose frames are mixed alike. Hand-written: torchvision's
MixUp draws from the global generator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vitral.data.images import CropBox
from vitral.data.targets import blend_with_previous
from vitral.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Mixing of a batch's images; with both on, a coin flip decides per batch."""

    mixup: float = 0.0
    """Alpha of mixup's Beta(alpha, alpha); 0 disables it."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta(alpha, alpha); 0 disables it."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(
                    f"`{name}` must be 0 (off) or an alpha above 0: got {value}."
                )


@dataclass(frozen=True, slots=True)
class MixedBatch:
    """Mixed images and targets, and the weight of the unrolled ones."""

    image: Float[Tensor, "batch *frames channels height width"]
    target: Any
    weight: float


def mix(
    image: Float[Tensor, "batch ..."],
    target: Any,
    config: MixConfig,
    generator: np.random.Generator,
    blend: Callable[[Any, float], Any],
) -> MixedBatch:
    """Mix a batch with itself rolled by one.

    Mixup takes max(lambda, 1 - lambda), so the row's label has the larger weight. The
    weight of CutMix is the exact fraction of pixels that stay.

    Args:
        blend: that of the data set's `Targets`.

    Raises:
        ConfigError: `image` is neither images nor clips, or the targets have no blend.
    """
    if image.ndim not in (4, 5):
        raise ConfigError(
            "mixup and cutmix need images [batch, channels, height, width] or clips "
            f"[batch, frames, channels, height, width]: got {list(image.shape)}. "
            "Switch both off for cached tokens."
        )
    use_cutmix = config.cutmix > 0 and (config.mixup == 0 or generator.random() < 0.5)
    if use_cutmix:
        height, width = image.shape[-2:]
        box = cutmix_box(
            height, width, generator.beta(config.cutmix, config.cutmix), generator
        )
        cut = image.clone()
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        cut[..., rows, columns] = image.roll(1, 0)[..., rows, columns]
        weight = 1 - box.area / (height * width)
        return MixedBatch(cut, blend(target, weight), weight)
    if config.mixup > 0:
        drawn = generator.beta(config.mixup, config.mixup)
        weight = max(drawn, 1 - drawn)
        mixed = blend_with_previous(image, weight)
        return MixedBatch(mixed, blend(target, weight), weight)
    return MixedBatch(image, target, 1.0)


def cutmix_box(
    height: int, width: int, weight: float, generator: np.random.Generator
) -> CropBox:
    """Draw a box of area about (1 - weight) around a uniform centre, cut at borders."""
    share = math.sqrt(1 - weight)
    center_y, center_x = int(generator.integers(height)), int(generator.integers(width))
    half_y, half_x = int(height * share) // 2, int(width * share) // 2
    return CropBox(
        top=max(0, center_y - half_y),
        left=max(0, center_x - half_x),
        bottom=min(height, center_y + half_y),
        right=min(width, center_x + half_x),
    )
