"""Synthetic images and clips whose relevant pixels are known, to test explanations.

`find_the_square` hides one small square in noise. Its pattern is the class, so a
correct explanation of a correct model must point at the square.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8

from vitral.errors import ConfigError

PATTERNS = ("rows", "columns", "checks", "rings")
"""Patterns of a square, in the order of the classes."""
SQUARE = 12
"""Default side in pixels."""
PERIOD = 4
"""Pixels between the starts of two light stripes."""
DARK, LIGHT = (75, 20, 10), (235, 60, 30)
"""The two reds of every pattern. One colour for all classes makes the square easy to
find without revealing the class. With grey patterns, small models learn a class as the
absence of the others, and then rightly look elsewhere."""
NOISE_MEAN, NOISE_STD = 128.0, 32.0
"""Mean and standard deviation of the background in each channel."""


@dataclass(frozen=True, slots=True)
class Squares:
    """Images with one square each."""

    images: UInt8[np.ndarray, "examples height width 3"]
    labels: Int[np.ndarray, " examples"]
    """Index into PATTERNS."""
    boxes: Int[np.ndarray, "examples 4"]
    """Top, left, bottom and right of the square in pixels; the last two exclusive."""


def find_the_square(
    n: int, size: tuple[int, int], seed: int, *, side: int = SQUARE
) -> Squares:
    """Draw `n` noisy images, each with one square of a random pattern anywhere in it.

    The images are a function of the arguments; another seed gives unrelated ones.

    Args:
        size: (height, width) of an image in pixels.
        side: side of the square in pixels; a multiple of 4, at least 8, so that all
            patterns have whole periods and differ.

    Raises:
        ConfigError: the square does not fit, or `n` or `side` is invalid.
    """
    height, width = size
    if n < 1:
        raise ConfigError(f"`n` must be at least 1 image: got {n}.")
    if side < 8 or side % PERIOD:
        raise ConfigError(
            f"`side` must be a multiple of {PERIOD} pixels and at least 8, so that a "
            f"square shows whole periods of its pattern: got {side}."
        )
    if min(size) < side:
        raise ConfigError(
            f"A square of {side} pixels does not fit into images of {height} x {width}"
            " (height x width): ask for larger images or a smaller `side`."
        )
    random = np.random.default_rng(seed)
    noise = random.normal(NOISE_MEAN, NOISE_STD, (n, height, width, 3))
    images = np.clip(np.rint(noise), 0, 255).astype(np.uint8)
    labels = random.integers(len(PATTERNS), size=n)
    tops = random.integers(height - side + 1, size=n)
    lefts = random.integers(width - side + 1, size=n)
    drawn = draw_patterns(side)
    for image, label, top, left in zip(images, labels, tops, lefts, strict=True):
        image[top : top + side, left : left + side] = drawn[label]
    boxes = np.stack([tops, lefts, tops + side, lefts + side], axis=1)
    return Squares(images, labels, boxes)


def draw_patterns(side: int) -> UInt8[np.ndarray, "patterns side side 3"]:
    """Draw a coloured square of `side` pixels for each of PATTERNS."""
    row, column = np.indices((side, side))
    half = PERIOD // 2
    rings = np.minimum.reduce([row, column, side - 1 - row, side - 1 - column])
    light = np.stack(
        [
            row // half % 2,
            column // half % 2,
            (row // half + column // half) % 2,
            rings // half % 2,
        ]
    )
    return np.where(light[..., None] == 1, LIGHT, DARK).astype(np.uint8)


DIRECTIONS = ("left", "right")
APPEARANCES = ("rows", "columns")
"""The patterns of moving squares, out of PATTERNS."""
Label = Literal["motion", "appearance"]


@dataclass(frozen=True, slots=True)
class MovingClips:
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
) -> MovingClips:
    """Draw `n` clips; direction, pattern, position and noise are independent.

    The clips are a function of the arguments, and the same for both kinds of label.

    Args:
        size: (height, width) of a frame in pixels.
        frames: frames per clip; at least 2.
        side: side of the square in pixels; a multiple of 4, at least 8.
        step: pixels per frame; at least 1.

    Raises:
        ConfigError: the square or its path does not fit, or an argument is invalid.
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
    path = side + (frames - 1) * step
    if height < side or width < path:
        raise ConfigError(
            f"A square of {side} pixels that moves {frames - 1} times by {step} needs "
            f"frames of {side} x {path} (height x width) or more: got {height} x "
            f"{width}."
        )
    random = np.random.default_rng(seed)
    noise = random.normal(NOISE_MEAN, NOISE_STD, (n, frames, height, width, 3))
    clips = np.clip(np.rint(noise), 0, 255).astype(np.uint8)
    direction = random.integers(2, size=n)
    appearance = random.integers(2, size=n)
    tops = random.integers(height - side + 1, size=n)
    lefts = random.integers(width - path + 1, size=n)
    drawn = draw_patterns(side)
    for clip, right, pattern, top, left in zip(
        clips, direction, appearance, tops, lefts, strict=True
    ):
        for i in range(frames):
            x = left + step * (i if right else frames - 1 - i)
            clip[i, top : top + side, x : x + side] = drawn[pattern]
    if label == "motion":
        return MovingClips(clips, direction, DIRECTIONS)
    return MovingClips(clips, appearance, APPEARANCES)
