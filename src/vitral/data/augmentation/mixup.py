"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) on a whole batch.

One lambda per batch and the batch rolled by one as partner, as in "How to train your
ViT" (arXiv 2106.10270). Works on images and clips, not on cached tokens; all frames of
a clip are mixed alike.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vitral.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How the images of a batch are mixed; with both on, a coin decides per batch."""

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


class MixedBatch(NamedTuple):
    """Mixed images and targets, and the weight of the unrolled ones."""

    image: Float[Tensor, "batch *frames channels height width"]
    target: Float[Tensor, "batch classes"]
    weight: float


def mix(
    image: Float[Tensor, "batch ..."],
    target: Float[Tensor, "batch classes"],
    config: MixConfig,
    generator: np.random.Generator,
) -> MixedBatch:
    """Mix a batch with itself rolled by one.

    Mixup takes max(lambda, 1 - lambda), so the own label always leads. The weight of
    CutMix is the exact share of pixels that stay.

    Raises:
        ConfigError: `image` is neither images nor clips.
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
        return MixedBatch(cut, _blend(target, weight), weight)
    if config.mixup > 0:
        drawn = generator.beta(config.mixup, config.mixup)
        weight = max(drawn, 1 - drawn)
        return MixedBatch(_blend(image, weight), _blend(target, weight), weight)
    return MixedBatch(image, target, 1.0)


class Box(NamedTuple):
    """A rectangle in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


def cutmix_box(
    height: int, width: int, weight: float, generator: np.random.Generator
) -> Box:
    """A box of area about (1 - weight) around a uniform centre, cut at the borders."""
    share = math.sqrt(1 - weight)
    centre_y, centre_x = int(generator.integers(height)), int(generator.integers(width))
    half_y, half_x = int(height * share) // 2, int(width * share) // 2
    return Box(
        top=max(0, centre_y - half_y),
        left=max(0, centre_x - half_x),
        bottom=min(height, centre_y + half_y),
        right=min(width, centre_x + half_x),
    )


def _blend(value: Tensor, weight: float) -> Tensor:
    if weight == 1:
        return value
    return weight * value + (1 - weight) * value.roll(1, 0)
