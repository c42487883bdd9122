"""Bounds of a model's settings, checked before anything is built.

A config.json of a stranger may ask for a billion blocks, or for none. The bounds are
far above every published model.
"""

import dataclasses
from typing import Any

from vitral.errors import ConfigError

Range = tuple[int | float, int | float]
WIDTH: Range = (1, 2**17)
MAX_PATCHES = 2**20
"""Largest grid of an image; its positions may be computed."""
BOUNDS: dict[str, Range] = {
    "image_size": (1, 2**15),
    "in_chans": (1, 2**14),
    "num_classes": (0, 2**25),
    "patch_size": (1, 2**14),
    "word_size": (1, 2**10),
    "word_kernel": (1, 2**10),
    "embed_dim": WIDTH,
    "inner_dim": WIDTH,
    "mlp_dim": (1, 2**20),
    "inner_mlp_dim": (1, 2**20),
    "num_heads": (1, 2**12),
    "inner_num_heads": (1, 2**12),
    "depth": (1, 1024),
    "units": (1, 1024),
    "width_factor": (1, 64),
    "stem_width": (1, 2**13),
    "num_groups": (1, 2**13),
    "reg_tokens": (0, 2**12),
    "num_frames": (0, 2**12),
    "norm_eps": (1e-30, 1),
    "group_norm_eps": (1e-30, 1),
    "std_eps": (1e-30, 1),
}
"""Smallest and largest value of a field, both allowed."""
OTHER_INT: Range = (0, 2**20)
OTHER_FLOAT: Range = (-1e6, 1e6)


def check_bounds(config: Any) -> None:
    """Refuse the first number of a config that no model can have.

    Raises:
        ConfigError: a number is not finite, or outside the bounds of its field.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            other = OTHER_INT if isinstance(number, int) else OTHER_FLOAT
            low, high = BOUNDS.get(field.name, other)
            # A whole number may stand for a float, which may be negative.
            if field.name not in BOUNDS and field.type in (float, "float"):
                low, high = OTHER_FLOAT
            # NaN fails every comparison.
            if not low <= number <= high:
                shown = repr(number) if abs(number) < 10**30 else "a larger one"
                raise ConfigError(
                    f"`{field.name}` must lie between {_format(low)} and "
                    f"{_format(high)}: got {shown}."
                )


def _format(bound: int | float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
