"""Rows of the benchmark's tables, as plain data for JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers.interleave import WorkTiming, quartiles, ratio


@dataclass(frozen=True, kw_only=True)
class TimingRow:
    """One side of one measurement."""

    name: str
    kind: str
    """`ours`, `exact` for ours through a compiler, or `peer`."""
    against: str
    """Side whose time is divided by this side's; above 1, this side is faster."""
    seconds: float
    """Median of wall-clock seconds."""
    quartiles: tuple[float, float]
    cpu_seconds: float
    """Median of CPU seconds of all threads."""
    ratio: float
    ratio_quartiles: tuple[float, float]
    share_of_peak: float | None
    """Fraction of the machine's peak of matrix products."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def timing_row(
    name: str,
    kind: str,
    against: str,
    timings: dict[str, WorkTiming],
    *,
    flops: float = 0.0,
    peak: float = 0.0,
) -> dict[str, Any]:
    """Summarize the times of one side.

    Args:
        flops: of one piece of work; 0 without matrix products.
        peak: operations per second of the machine.
    """
    timing = timings[name]
    compared = ratio(timings[against], timing)
    cpu = sorted(timing.cpu)
    return TimingRow(
        name=name,
        kind=kind,
        against=against,
        seconds=timing.seconds,
        quartiles=quartiles(timing.wall),
        cpu_seconds=cpu[len(cpu) // 2],
        ratio=compared.value,
        ratio_quartiles=(compared.low, compared.high),
        share_of_peak=flops / timing.seconds / peak if flops and peak else None,
    ).to_dict()
