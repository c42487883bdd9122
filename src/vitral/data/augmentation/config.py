"""Settings of the random operations on a training image."""

import math
from dataclasses import dataclass
from typing import Literal

from vitral.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random operations on a training image, in the order they are applied."""

    dihedral: bool = False
    """Rotate and mirror: view v shows symmetry (hash + v) % 8, so 8 views show all
    eight; replaces `flip`. For images without an "up"."""
    crop: Literal["none", "inception", "window"] = "none"
    """"inception" cuts a random rectangle and resizes it to the image size. "window"
    resizes the image so that the image size is the smaller `crop_area` of it, and cuts
    a random window. "none" resizes as in evaluation."""
    crop_area: tuple[float, float] = (0.05, 1.0)
    """Smallest and largest fraction of the area that a crop keeps."""
    flip: float = 0.5
    """Probability of mirroring left-right; 0 disables it, as digits and text need."""
    shift: float = 0.0
    """Largest shift as a share of height and width, fractions of a pixel included,
    edges repeated; 0 disables it."""
    rotate: float = 0.0
    """Largest rotation in degrees, edges repeated; 0 disables it."""
    zoom: float = 0.0
    """Zoom by exp(U(-zoom, zoom)), edges repeated; 0 disables it."""
    rand_augment: int = 0
    """Number of RandAugment operations per image; 0 disables it."""
    rand_augment_magnitude: int = 9
    """Strength, 0..30. For `rand` on torchvision's scale, where 30 is the paper's 10;
    for `rand_original` as in the papers, AugReg up to 20."""
    policy: Literal["rand", "rand_original", "auto"] = "rand"
    """"rand" is torchvision's RandAugment. "rand_original" is its first release, used
    by AugReg, with shifts and holes in pixels of a 224 image. "auto" is AutoAugment's
    ImageNet policy, for which `rand_augment` stays 0."""
    color_jitter: float = 0.0
    """Factor range 1 +- this for brightness, contrast, saturation; 0 disables it."""
    random_erasing: float = 0.0
    """Probability of replacing a rectangle by the mean colour; 0 disables it."""
    repeats: int = 1
    """Variations of each example in an epoch; the number of batches stays."""
    views: int = 0
    """Number V of views of an image that repeat; 0 draws a new view each epoch."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        checks = (
            (
                "crop",
                self.crop in ("none", "inception", "window"),
                "'none', 'inception' or 'window'",
            ),
            ("crop_area", 0 < low <= high <= 1, "0 < smallest <= largest <= 1"),
            ("flip", 0 <= self.flip <= 1, "a probability"),
            ("shift", 0 <= self.shift < 1, "a share from 0 to below 1"),
            ("rotate", 0 <= self.rotate <= 180, "0 to 180 degrees"),
            ("zoom", 0 <= self.zoom <= 1, "0 to 1"),
            ("rand_augment", self.rand_augment >= 0, "a number of operations"),
            (
                "rand_augment_magnitude",
                0 <= self.rand_augment_magnitude <= 30,
                "0 to 30",
            ),
            (
                "policy",
                self.policy in ("rand", "rand_original", "auto"),
                "'rand', 'rand_original' or 'auto'",
            ),
            ("color_jitter", 0 <= self.color_jitter < math.inf, "0 or more"),
            ("random_erasing", 0 <= self.random_erasing <= 1, "a probability"),
            ("repeats", self.repeats >= 1, "a number of variations, 1 or more"),
            ("views", self.views >= 0, "0 or a number of views"),
        )
        for name, valid, expected in checks:
            if not valid:
                value = getattr(self, name)
                raise ConfigError(f"`augment.{name}` must be {expected}: got {value}.")
        if self.policy == "auto" and self.rand_augment:
            raise ConfigError(
                "`augment.policy=auto` is AutoAugment, which draws its own number of "
                f"operations: set `augment.rand_augment` to 0, got {self.rand_augment}."
            )

    def unread_fields(self) -> dict[str, str]:
        """Return the fields that these settings do not read, with the one that does."""
        unread = {}
        if self.crop == "none":
            unread["crop_area"] = "`crop=inception` or `crop=window`"
        if self.dihedral:
            unread["flip"] = "`dihedral=False`"
        if not self.rand_augment:
            unread["rand_augment_magnitude"] = "`rand_augment=2`"
            if self.policy == "rand_original":
                unread["policy"] = "`rand_augment=2`"
        return unread

    @property
    def warps(self) -> bool:
        """Return whether the image is moved by fractions of a pixel."""
        return bool(self.shift or self.rotate or self.zoom)

    @property
    def uses_torchvision(self) -> bool:
        """Return whether colours are varied or a part is erased."""
        return bool(self.changes_color or self.random_erasing)

    @property
    def changes_color(self) -> bool:
        """Return whether a policy or the colour jitter changes the image."""
        operations = self.rand_augment or self.policy == "auto"
        return bool(operations or self.color_jitter)

    def view(self, draw: int) -> int:
        """Return the view of a variation by its index."""
        return draw % self.views if self.views else draw
