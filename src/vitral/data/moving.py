"""Generated clips in which only motion, or only appearance, carries the label.

A small square with a pattern moves left or right over noise, on a torus: what leaves
the frame on one side comes back on the other. Where it is in any one frame, and in
which set of places over all frames, says nothing about the direction, so a model that
sees frames apart, in no order, cannot do better than chance on motion.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from vitral.data.generated import NOISE_DEVIATION, NOISE_MEAN, PERIOD, patterns
from vitral.errors import ConfigError

DIRECTIONS = ("left", "right")
APPEARANCES = ("rows", "columns")
"""The patterns of generated.PATTERNS that are drawn here."""
Label = Literal["motion", "appearance"]


class Clips(NamedTuple):
    """Clips with one moving square each."""

    clips: UInt8[np.ndarray, "examples frames height width 3"]
    labels: Int[np.ndarray, " examples"]
    """Index into DIRECTIONS or APPEARANCES."""
    classes: tuple[str, ...]


def moving_squares(
    n: int,
    size: tuple[int, int],
    seed: int,
    *,
    label: Label,
    frames: int = 4,
    side: int = 8,
    step: int = 4,
) -> Clips:
    """Draw `n` clips; direction, pattern, place and noise are drawn independently.

    The same arguments give the same clips, and the two kinds of label belong to the
    same clips.

    Args:
        size: (height, width) of a frame in pixels.
        frames: of a clip; at least 2.
        side: of the square in pixels, a multiple of 4 of at least 8.
        step: pixels from one frame to the next.

    Raises:
        ConfigError: the square does not fit, or a number cannot be. A step of half the
            width, or a multiple of it, would move left as it moves right.
    """
    height, width = size
    if n < 1 or frames < 2:
        raise ConfigError(
            f"Moving squares need a clip or more of 2 frames or more: got {n} clips of "
            f"{frames} frames."
        )
    if side < 8 or side % PERIOD or side > min(size):
        raise ConfigError(
            f"`side` must be a multiple of {PERIOD} pixels, at least 8 and at most the "
            f"frame's {min(size)}: got {side}."
        )
    if 2 * step % width == 0:
        raise ConfigError(
            f"A step of {step} pixels in frames {width} wide looks the same in both "
            "directions: use another step."
        )
    random = np.random.default_rng(seed)
    noise = random.normal(NOISE_MEAN, NOISE_DEVIATION, (n, frames, height, width, 3))
    clips = np.clip(np.rint(noise), 0, 255).astype(np.uint8)
    direction = random.integers(2, size=n)
    appearance = random.integers(2, size=n)
    tops, lefts = random.integers(height, size=n), random.integers(width, size=n)
    drawn = patterns(side)
    inside = np.arange(side)
    for clip, way, look, top, left in zip(
        clips, direction, appearance, tops, lefts, strict=True
    ):
        rows = (top + inside) % height
        for number, frame in enumerate(clip):
            shift = number * step * (1 if way else -1)
            columns = (left + shift + inside) % width
            frame[np.ix_(rows, columns)] = drawn[look]
    if label == "motion":
        return Clips(clips, direction, DIRECTIONS)
    return Clips(clips, appearance, APPEARANCES)
