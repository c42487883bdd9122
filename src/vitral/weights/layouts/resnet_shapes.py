"""Sizes of a ResNet from its tensors, and differences between published codes.

Shared by the layouts that hold a BiT ResNet or a hybrid's backbone.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vitral.errors import WeightsError
from vitral.layers.bottleneck import total_stride
from vitral.models import HybridConfig, ResNetConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts.limits import Limit

GROUPS = 32
"""Groups of every GroupNorm, in every published BiT ResNet."""
PIXELS = 224
"""Assumed side of images where no file states it."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """Numerical constants of one project's code."""

    group_norm_eps: float
    std_eps: float
    std_eps_at: str


def count_units(opened: LayoutInput, pattern: str, first: int) -> tuple[int, ...]:
    """Return the number of units of each stage.

    Args:
        pattern: of a unit's tensors; its groups are the numbers of stage and unit.
        first: the number of the first stage, and of the first unit of each.
    """
    matches = (re.match(pattern, name) for name in opened.file.names())
    present = {(int(match[1]), int(match[2])) for match in matches if match}
    counts = Counter(stage for stage, _ in present)
    units = tuple(counts[stage] for stage in sorted(counts))
    expected = {
        (first + stage, first + unit)
        for stage, count in enumerate(units)
        for unit in range(count)
    }
    if missing := sorted(expected - present):
        stage, unit = missing[0]
        raise WeightsError(
            f"{opened.path}: it has {len(present)} units of a ResNet, but no tensor of "
            f"unit {unit} of stage {stage}. The file is incomplete."
        )
    return units


def read_width_fields(
    opened: LayoutInput, name: str, width: int, groups: int = GROUPS
) -> dict[str, Any]:
    """Return the settings of a stem of `width` channels, those of the tensor `name`."""
    if width % groups:
        raise WeightsError(
            f"{opened.path}: tensor {name} has {width} channels, which the {groups} "
            "groups of a GroupNorm do not divide. It is the file of another model."
        )
    factor = width // 64 if width % 64 == 0 else 1
    stem = width // factor
    return {"stem_width": stem, "width_factor": factor, "num_groups": groups}


def infer_image_size(
    opened: LayoutInput,
    units: tuple[int, ...],
    declared: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Infer the image size, which the tensors do not depend on.

    Args:
        declared: size in a file next to the tensors; the caller's grid has precedence.
    """
    if opened.grid is not None:
        stride = total_stride(units)
        return opened.grid.rows * stride, opened.grid.columns * stride
    if declared is not None:
        return declared
    opened.notes.append(
        f"images of {PIXELS} x {PIXELS} pixels assumed: the file does not say, and the "
        "model takes any"
    )
    return PIXELS, PIXELS


def differences(
    config: HybridConfig | ResNetConfig, theirs: Numerics, who: str
) -> tuple[str, ...]:
    """Return notes on the numbers in which `who`'s code differs from the model."""
    notes = []
    if config.group_norm_eps != theirs.group_norm_eps:
        notes.append(
            f"{who}'s GroupNorm has an epsilon of {theirs.group_norm_eps:g}, not "
            f"{config.group_norm_eps:g}: logits will differ slightly there"
        )
    if (config.std_eps, config.std_eps_at) != (theirs.std_eps, theirs.std_eps_at):
        notes.append(
            f"{who} standardises weights with an epsilon of {theirs.std_eps:g} at the "
            f"{theirs.std_eps_at}, not {config.std_eps:g} at the {config.std_eps_at}: "
            "logits will differ slightly there"
        )
    return tuple(notes)


def structure_limits(padding: str, groups: int | None = GROUPS) -> tuple[Limit, ...]:
    """Return the limits of code with this padding and these groups; None: any."""
    paddings = {"fixed": "both sides of an image alike", "same": "as TensorFlow's SAME"}
    return (
        (
            f"its GroupNorms have {groups} groups",
            lambda it: groups not in (None, it.num_groups),
        ),
        (f"its convolutions pad {paddings[padding]}", lambda it: it.padding != padding),
    )


ROUNDS_WIDTHS: Limit = (
    "it rounds every width to a multiple of 8",
    lambda it: it.width % 8 != 0,
)
