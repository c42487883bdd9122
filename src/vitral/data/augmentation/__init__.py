"""Random augmentation as a function of (seed, epoch, example)."""

from vitral.data.augmentation.augment import Augment
from vitral.data.augmentation.config import AugmentConfig
from vitral.data.augmentation.mixup import MixConfig, mix

__all__ = ["Augment", "AugmentConfig", "MixConfig", "mix"]
