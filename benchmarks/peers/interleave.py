"""Seconds of several pieces of work that take turns in one process.

Whatever else the machine does then stretches all of them alike, and a ratio of medians
means something where two separate timings would not.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vitral.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WorkTiming:
    """Seconds of one piece of work, one value a round."""

    wall: tuple[float, ...]
    """By the clock on the wall."""
    cpu: tuple[float, ...]
    """Of all threads of the process together."""

    @property
    def seconds(self) -> float:
        """The median by the clock."""
        return statistics.median(self.wall)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as fast one piece of work is as another; above 1 is faster."""

    value: float
    """The ratio of the two medians."""
    low: float
    """The quarter of the rounds in which it did worst lies below."""
    high: float


def run_interleaved(
    work: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 2
) -> dict[str, WorkTiming]:
    """Run all work once a round, `rounds` times after `warmup` unmeasured ones.

    Each round begins with another piece and every second one runs backwards, so that
    none always follows the same neighbour.
    """
    if rounds < 1:
        raise ConfigError(f"`rounds` must be at least 1: got {rounds}.")
    names = list(work)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        first = number % len(names)
        order = names[first:] + names[:first]
        for name in order if number % 2 else reversed(order):
            started, busy = time.perf_counter(), time.process_time()
            work[name]()
            if number >= 0:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - busy)
    return {
        name: WorkTiming(wall=tuple(wall[name]), cpu=tuple(cpu[name])) for name in names
    }


def ratio(base: WorkTiming, other: WorkTiming) -> Ratio:
    """How many times as fast as `base` is `other`, by the clock."""
    by_round = sorted(b / o for b, o in zip(base.wall, other.wall, strict=True))
    low, high = quartiles(by_round)
    return Ratio(value=base.seconds / other.seconds, low=low, high=high)


def quartiles(values: list[float] | tuple[float, ...]) -> tuple[float, float]:
    """The first and the third; of a single value that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
