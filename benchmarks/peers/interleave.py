"""Interleaved timing of several pieces of work in one process.

Other load then slows all of them alike, so that a ratio of medians is meaningful.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vitral.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WorkTiming:
    """Seconds of one piece of work, one value per round."""

    wall: tuple[float, ...]
    """Wall-clock seconds."""
    cpu: tuple[float, ...]
    """CPU seconds of all threads."""

    @property
    def seconds(self) -> float:
        """Return the median of wall-clock seconds."""
        return statistics.median(self.wall)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Speed of one piece of work relative to another; above 1 is faster."""

    value: float
    """Ratio of the two medians."""
    low: float
    """First quartile over the rounds."""
    high: float


def run_interleaved(
    work: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 2
) -> dict[str, WorkTiming]:
    """Run all work once a round, `rounds` times after `warmup` unmeasured ones.

    Each round starts with another piece and every second one runs backwards, so that
    none always follows the same one.
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
    """Return the speed of `other` relative to `base`, by the wall clock."""
    by_round = sorted(b / o for b, o in zip(base.wall, other.wall, strict=True))
    low, high = quartiles(by_round)
    return Ratio(value=base.seconds / other.seconds, low=low, high=high)


def quartiles(values: list[float] | tuple[float, ...]) -> tuple[float, float]:
    """Return the first and third quartile; a single value twice."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
