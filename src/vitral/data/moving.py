"""Generated clips in which only motion, or only appearance, carries the label.

A small square with a pattern crosses the frame from left to right over noise. A clip of
the other direction is such a clip with its frames in reverse order, so that the two
directions have the same frames and differ in nothing but their order: a model that sees
frames apart, in no order, cannot do better than chance on motion.
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
        step: pixels from one frame to the next; at least 1.

    Raises:
        ConfigError: the square or its way does not fit, or a number cannot be.
    """
    height, width = size
    if n < 1 or frames < 2 or step < 1:
        raise ConfigError(
            f"Moving squares need 1 clip, 2 frames and 1 pixel of step or more: got "
            f"{n} clips of {frames} frames and a step of {step}."
        )
    if side < 8 or side % PERIOD:
        raise ConfigError(
            f"`side` must be a multiple of {PERIOD} pixels and at least 8: got {side}."
        )
    way = side + (frames - 1) * step
    if height < side or width < way:
        raise ConfigError(
            f"A square of {side} pixels that moves {frames - 1} times by {step} needs "
            f"frames of {side} x {way} (height x width) or more: got {height} x "
            f"{width}."
        )
    random = np.random.default_rng(seed)
    noise = random.normal(NOISE_MEAN, NOISE_DEVIATION, (n, frames, height, width, 3))
    clips = np.clip(np.rint(noise), 0, 255).astype(np.uint8)
    direction = random.integers(2, size=n)
    appearance = random.integers(2, size=n)
    tops = random.integers(height - side + 1, size=n)
    lefts = random.integers(width - way + 1, size=n)
    drawn = patterns(side)
    for clip, right, look, top, left in zip(
        clips, direction, appearance, tops, lefts, strict=True
    ):
        for number in range(frames):
            place = left + step * (number if right else frames - 1 - number)
            clip[number, top : top + side, place : place + side] = drawn[look]
    if label == "motion":
        return Clips(clips, direction, DIRECTIONS)
    return Clips(clips, appearance, APPEARANCES)
