"""Bounds of the settings of a preprocessing, which a stranger's file may hold."""

from typing import Any

from vitral.data.images.window import PILLOW_FILTER
from vitral.validation import Checks

MAX_SIDE = 2**15
"""Largest height or width of a model's input."""
MIN_CROP = 0.02
MAX_STATISTIC = 1e6
"""Largest mean and deviation on the 0..1 scale; its inverse is the smallest one."""
MAX_VALUE = 1e30


def to_field_value(name: str, value: Any) -> Any:
    """Convert JSON's lists and integers to the types of the field."""
    if name in ("image_size", "mean", "std", "value_range") and isinstance(
        value, list | tuple
    ):
        if name == "image_size":
            return tuple(value)
        return tuple(map(_to_float, value))
    return _to_float(value) if name == "crop_fraction" else value


def _to_float(value: Any) -> Any:
    """Return a whole number as float; one that no float holds stays as it is."""
    return float(value) if type(value) is int and abs(value) < MAX_VALUE else value


def _are_numbers(values: Any, low: float, high: float) -> bool:
    return len(values) > 0 and all(
        type(value) is float and low <= value <= high for value in values
    )


CHECKS: Checks = {
    "image_size": (
        lambda size: (
            len(size) == 2
            and all(type(side) is int and 1 <= side <= MAX_SIDE for side in size)
        ),
        f"two positive numbers (height, width), whole and at most {MAX_SIDE}",
    ),
    "resize": (lambda name: name in ("squash", "crop"), "'squash' or 'crop'"),
    "crop_fraction": (
        lambda share: type(share) is float and MIN_CROP <= share <= 1,
        f"at least {MIN_CROP} and at most 1",
    ),
    "interpolation": (
        lambda name: name in PILLOW_FILTER,
        "'nearest', 'bilinear' or 'bicubic'",
    ),
    "antialias": (lambda flag: isinstance(flag, bool), "true or false"),
    "mean": (
        lambda mean: _are_numbers(mean, -MAX_STATISTIC, MAX_STATISTIC),
        "a finite number for each channel",
    ),
    "std": (
        lambda std: _are_numbers(std, 1 / MAX_STATISTIC, MAX_STATISTIC),
        "a positive number for each channel",
    ),
    "value_range": (
        lambda ends: (
            ends is None
            or (
                len(ends) == 2
                and _are_numbers(ends, -MAX_VALUE, MAX_VALUE)
                and ends[0] < ends[1]
            )
        ),
        "two finite numbers, the lower first, or none",
    ),
}
"""A predicate for each field, in order, and what it requires."""
