"""The learning rate of every update, as a function of its index and nothing else.

Cosine and linear as in arXiv 2010.11929 appendix B.1, rsqrt as in arXiv 2106.04560,
step as in arXiv 1912.11370.
The rate is computed, never stored, so a resumed run cannot lose it. Update 0 is the
first one and has rate 0 when there is a warm-up, as in the authors' code.
"""

import math
from dataclasses import dataclass
from typing import Literal

from vitral.errors import ConfigError

SCHEDULES = ("cosine", "linear", "rsqrt", "constant", "step")
STEP_TENTHS = (3, 6, 9)
"""Tenths of the whole run, warm-up included, after which `step` divides by ten."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate rises and falls."""

    schedule: Literal["cosine", "linear", "rsqrt", "constant", "step"] = "cosine"
    """The shape after the warm-up; `step` divides by ten after 30, 60 and 90 % of the
    run."""

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
        if self.timescale < 1:
            raise ConfigError(f"`timescale` must be at least 1: got {self.timescale}.")
        if self.cooldown and self.schedule in ("cosine", "linear", "step"):
            raise ConfigError(
                f"`cooldown` is for the schedules rsqrt and constant: {self.schedule} "
                "ends low by itself. Set cooldown to 0."
            )


def lr_at(step: int, total: int, base: float, config: ScheduleConfig) -> float:
    """The learning rate of update `step` (0 is the first) of a run of `total` updates.

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
    elif config.schedule == "step":
        # Whole numbers: 0.3 * total can fall on either side of the boundary. At the
        # boundary itself the old rate still holds, as in the released code.
        rate = base / 10 ** sum(10 * step > tenths * total for tenths in STEP_TENTHS)
    if config.warmup:
        rate *= min(1.0, step / config.warmup)
    if config.cooldown:
        rate *= max(0.0, min(1.0, (total - step) / config.cooldown))
    return rate


def steps_for(images: int, epochs: float | int, batch_size: int) -> int:
    """The number of updates that see `images` images `epochs` times, rounded."""
    return round(images * epochs / batch_size)
