"""RandAugment of the TensorFlow code with which AugReg trained, not torchvision's.

Formulas of tensorflow/tpu, efficientnet/autoaugment.py (used by arXiv 2106.10270 and
2205.01580): 16 operations, no identity, grey 128 for empty pixels. Its oddities stay:
contrast blends with height * width / 256 instead of the mean, a higher magnitude
posterises less, solarise's threshold is a byte, so 256 is 0 (big_vision issue 110).
torchvision's RandAugment has other operations, scales and signs.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

Pixels = UInt8[np.ndarray, "height width 3"]

FILL = 128
CUTOUT_HALF_SIDE = 40
"""Half the side of the hole in pixels at magnitude 10, for any image size."""
TRANSLATE_PIXELS = 100
"""Pixels of a translation at magnitude 10, for any image size."""
MAX_MAGNITUDE = 10
"""Magnitude at which the constants hold; the formulas extrapolate beyond it."""
LUMA_WEIGHTS = (0.2989, 0.587, 0.114)


def rand_augment(
    pixels: Pixels, num_ops: int, magnitude: int, generator: np.random.Generator
) -> Pixels:
    """Apply `num_ops` operations, each drawn among all 16, one after the other.

    Args:
        magnitude: 0 to 10 on the code's scale; AugReg goes to 20.
    """
    names = list(OPERATIONS)
    for _ in range(num_ops):
        name = names[int(generator.integers(len(names)))]
        pixels = OPERATIONS[name](pixels, magnitude / MAX_MAGNITUDE, generator)
    return pixels


def _random_sign(value: float, generator: np.random.Generator) -> float:
    return value if generator.integers(2) else -value


# color


def autocontrast(pixels: Pixels) -> Pixels:
    """Stretch each channel to 0..255."""
    low = pixels.min((0, 1)).astype(np.float32)
    high = pixels.max((0, 1)).astype(np.float32)
    scale = np.float32(255) / np.where(high > low, high - low, np.float32(1))
    return np.where(high > low, _to_uint8(pixels * scale - low * scale), pixels)


def equalize(pixels: Pixels) -> Pixels:
    """Make each channel's histogram flat."""
    return np.stack([_equalize_channel(pixels[..., c]) for c in range(3)], axis=-1)


def _equalize_channel(channel: UInt8[np.ndarray, "height width"]) -> np.ndarray:
    histogram = np.bincount(channel.reshape(-1), minlength=256)
    step = (histogram.sum() - histogram[channel.max()]) // 255
    if step == 0:
        return channel
    before = np.concatenate([[0], histogram.cumsum()[:-1]])
    table = np.where(np.arange(256) > 0, (before + step // 2) // step, 0)
    return table.clip(0, 255).astype(np.uint8)[channel]


def posterize(pixels: Pixels, bits: int) -> Pixels:
    """Keep the first bits of each value; with 0 bits one remains."""
    shift = min((8 - bits) % 256, 7)
    return pixels >> shift << shift


def solarize(pixels: Pixels, threshold: int) -> Pixels:
    """Invert values of at least the threshold, taken as a byte."""
    return np.where(pixels < threshold % 256, pixels, 255 - pixels)


def solarize_add(pixels: Pixels, addition: int) -> Pixels:
    """Brighten values below 128."""
    brighter = (pixels.astype(np.int64) + addition).clip(0, 255).astype(np.uint8)
    return np.where(pixels < 128, brighter, pixels)


def color(pixels: Pixels, factor: float) -> Pixels:
    """Blend from grey (0) over the image (1) to stronger colours."""
    return _blend(grayscale(pixels), pixels, factor)


def contrast(pixels: Pixels, factor: float) -> Pixels:
    """Blend from one grey (0) over the image (1) to more contrast.

    The grey is the number of pixels over 256, where the mean was intended.
    """
    height, width, _ = pixels.shape
    flat = np.full_like(pixels, min(height * width // 256, 255))
    return _blend(flat, pixels, factor)


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """Blend from black (0) over the image (1) to brighter."""
    return _blend(np.zeros_like(pixels), pixels, factor)


def sharpness(pixels: Pixels, factor: float) -> Pixels:
    """Blend from a smoothed image (0) over the image (1) to sharper; borders stay."""
    height, width, _ = pixels.shape
    wide = pixels.astype(np.int64)
    total = sum(
        wide[down : height - 2 + down, right : width - 2 + right]
        * (5 if down == right == 1 else 1)
        for down in range(3)
        for right in range(3)
    )
    smooth = pixels.copy()
    if height > 2 and width > 2:
        smooth[1:-1, 1:-1] = total // 13
    return _blend(smooth, pixels, factor)


def grayscale(pixels: Pixels) -> Pixels:
    """Return luma in all three channels."""
    luma = (pixels.astype(np.float32) / 255) @ np.array(LUMA_WEIGHTS, np.float32)
    return np.repeat(_to_uint8(luma * np.float32(255.5))[..., None], 3, axis=-1)


def _blend(degenerate: Pixels, image: Pixels, factor: float) -> Pixels:
    """Return `degenerate` at factor 0, `image` at 1, truncated to integers."""
    if factor == 1:
        return image
    start = degenerate.astype(np.float32)
    return _to_uint8(start + np.float32(factor) * (image.astype(np.float32) - start))


def _to_uint8(values: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return values.clip(0, 255).astype(np.uint8)


# geometry


def cutout(pixels: Pixels, half: int, generator: np.random.Generator) -> Pixels:
    """Draw a grey square of side 2 * half around a pixel, cut at the borders."""
    height, width, _ = pixels.shape
    row, column = int(generator.integers(height)), int(generator.integers(width))
    result = pixels.copy()
    rows = slice(max(0, row - half), min(height, row + half))
    columns = slice(max(0, column - half), min(width, column + half))
    result[rows, columns] = FILL
    return result


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Rotate counter-clockwise about the centre."""
    height, width, _ = pixels.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    left = ((width - 1) - (cos * (width - 1) - sin * (height - 1))) / 2
    top = ((height - 1) - (sin * (width - 1) + cos * (height - 1))) / 2
    return sample_nearest(pixels, (cos, -sin, left), (sin, cos, top))


def shift(
    pixels: Pixels, axis: Literal["x", "y"], *, slope: float = 0.0, by: float = 0.0
) -> Pixels:
    """Shift row y left by slope * y + by pixels, or for "y" column x up alike."""
    if axis == "x":
        return sample_nearest(pixels, (1.0, slope, by), (0.0, 1.0, 0.0))
    return sample_nearest(pixels, (1.0, 0.0, 0.0), (slope, 1.0, by))


def sample_nearest(
    pixels: Pixels,
    at_x: tuple[float, float, float],
    at_y: tuple[float, float, float],
) -> Pixels:
    """Sample the nearest pixel at (a x + b y + c) for both axes; grey outside."""
    height, width, _ = pixels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    columns, rows = (
        _round_half_away(np.float32(a) * x + np.float32(b) * y + np.float32(c))
        for a, b, c in (at_x, at_y)
    )
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    sampled = pixels[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return np.where(inside[..., None], sampled, np.uint8(FILL))


def _round_half_away(values: Float32[np.ndarray, "..."]) -> np.ndarray:
    """Round halves away from zero, as C does."""
    return np.copysign(np.floor(np.abs(values) + 0.5), values).astype(np.int64)


def _enhance_factor(share: float) -> float:
    return share * 1.8 + 0.1


OPERATIONS: dict[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "AutoContrast": lambda pixels, share, draw: autocontrast(pixels),
    "Equalize": lambda pixels, share, draw: equalize(pixels),
    "Invert": lambda pixels, share, draw: 255 - pixels,
    "Rotate": lambda pixels, share, draw: rotate(
        pixels, _random_sign(30 * share, draw)
    ),
    "Posterize": lambda pixels, share, draw: posterize(pixels, int(share * 4)),
    "Solarize": lambda pixels, share, draw: solarize(pixels, int(share * 256)),
    "Color": lambda pixels, share, draw: color(pixels, _enhance_factor(share)),
    "Contrast": lambda pixels, share, draw: contrast(pixels, _enhance_factor(share)),
    "Brightness": lambda pixels, share, draw: brightness(
        pixels, _enhance_factor(share)
    ),
    "Sharpness": lambda pixels, share, draw: sharpness(pixels, _enhance_factor(share)),
    "ShearX": lambda pixels, share, draw: shift(
        pixels, "x", slope=_random_sign(0.3 * share, draw)
    ),
    "ShearY": lambda pixels, share, draw: shift(
        pixels, "y", slope=_random_sign(0.3 * share, draw)
    ),
    "TranslateX": lambda pixels, share, draw: shift(
        pixels, "x", by=_random_sign(TRANSLATE_PIXELS * share, draw)
    ),
    "TranslateY": lambda pixels, share, draw: shift(
        pixels, "y", by=_random_sign(TRANSLATE_PIXELS * share, draw)
    ),
    "Cutout": lambda pixels, share, draw: cutout(
        pixels, int(share * CUTOUT_HALF_SIDE), draw
    ),
    "SolarizeAdd": lambda pixels, share, draw: solarize_add(pixels, int(share * 110)),
}
"""Operations in the order of the TensorFlow code, as functions of (pixels, magnitude /
MAX_MAGNITUDE, generator)."""
