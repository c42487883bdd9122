"""Learning rate of every update, as a function of its index and nothing else.

Cosine and linear as in arXiv 2010.11929 appendix B.1, rsqrt as in arXiv 2106.04560,
step as in arXiv 1912.11370. Update 0 is the first one and has rate 0 when there is a
warm-up, as in the authors' code.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vitral.errors import ConfigError
from vitral.validation import at_least

STEP_MILESTONES = {
    "step": ((3, 6, 9), 10),
    "step_of_90": ((30, 60, 80), 90),
    "step_of_40": ((10, 23, 30, 37), 40),
}
"""Parts of the whole run, warm-up included, after which the rate is divided by ten, and
the number of parts: the BiT-HyperRule, and BiT's pre-training in its epochs."""
Schedule = Literal[
    "cosine", "linear", "rsqrt", "constant", "step", "step_of_90", "step_of_40"
]
SCHEDULES = get_args(Schedule)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Shape of the learning rate over a training."""

    schedule: Schedule = "cosine"
    """The shape after the warm-up; `step` divides by ten after 30, 60 and 90 % of the
    run, `step_of_90` after 30, 60 and 80 ninetieths, `step_of_40` after 10, 23, 30 and
    37 fortieths."""

    warmup: int = 0
    """Updates over which the rate grows linearly from 0; 0 turns it off."""

    end_lr: float = 0.0
    """The rate at the end of `cosine` and `linear`; 0 for none. The paper's linear
    decay ends at 1e-5."""

    timescale: int = 10_000
    """Updates after the warm-up that divide the rate of `rsqrt` by the root of 2."""

    cooldown: int = 0
    """Last updates over which `rsqrt` and `constant` fall linearly to 0; 0 turns it
    off."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"`schedule` must be one of {', '.join(SCHEDULES)}: "
                f"got {self.schedule!r}."
            )
        for name in ("warmup", "end_lr", "cooldown"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"`{name}` must not be negative: got {getattr(self, name)}."
                )
        at_least(1, timescale=self.timescale)
        if self.cooldown and self.schedule not in ("rsqrt", "constant"):
            raise ConfigError(
                f"`cooldown` is for the schedules rsqrt and constant: {self.schedule} "
                "ends low by itself. Set cooldown to 0."
            )

    def unread_fields(self) -> dict[str, str]:
        """Return the fields that these settings do not read, with the one that does."""
        unread = {}
        if self.schedule != "rsqrt":
            unread["timescale"] = "`schedule=rsqrt`"
        if self.schedule not in ("cosine", "linear"):
            unread["end_lr"] = "`schedule=cosine` or `schedule=linear`"
        return unread


def lr_at(step: int, total: int, base: float, config: ScheduleConfig) -> float:
    """Return the learning rate of update `step` (0 is the first) of `total` updates.

    Raises:
        ConfigError: the warm-up is not shorter than the run.
    """
    if config.warmup and config.warmup >= total:
        raise ConfigError(
            f"`warmup` ({config.warmup} steps) must be shorter than the run "
            f"({total} steps): lower warmup or train longer."
        )
    after = max(step - config.warmup, 0)
    progress = min(after / max(total - config.warmup, 1), 1.0)
    rate = base
    if config.schedule == "cosine":
        half = 0.5 * (1 + math.cos(math.pi * progress))
        rate = config.end_lr + (base - config.end_lr) * half
    elif config.schedule == "linear":
        rate = config.end_lr + (base - config.end_lr) * (1 - progress)
    elif config.schedule == "rsqrt":
        rate = base / math.sqrt(1 + after / config.timescale)
    elif config.schedule in STEP_MILESTONES:
        edges, parts = STEP_MILESTONES[config.schedule]
        # Whole numbers: 0.3 * total can fall on either side of the boundary. At the
        # boundary itself the old rate still holds, as in the released code.
        rate = base / 10 ** sum(parts * step > edge * total for edge in edges)
    if config.warmup:
        rate *= min(1.0, step / config.warmup)
    if config.cooldown:
        rate *= max(0.0, min(1.0, (total - step) / config.cooldown))
    return rate


def steps_for(images: int, epochs: float | int, batch_size: int) -> int:
    """Return the number of updates that see `images` images `epochs` times, rounded."""
    return round(images * epochs / batch_size)
