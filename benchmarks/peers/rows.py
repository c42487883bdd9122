"""One line of a table of the benchmark, as plain data for the JSON file."""

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers.interleave import WorkTiming, quartiles, ratio


@dataclass(frozen=True, kw_only=True)
class TimingRow:
    """One side of one measurement."""

    name: str
    kind: str
    """`ours`, `exact` for ours through a compiler, `peer`."""
    against: str
    """Whose time is divided by this side's; above 1, this side is faster."""
    seconds: float
    """Median by the clock."""
    quartiles: tuple[float, float]
    cpu_seconds: float
    """Median over all threads."""
    ratio: float
    ratio_quartiles: tuple[float, float]
    share_of_peak: float | None
    """Of the operations that the matrix products of the machine could have made."""

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
    """Summarise the times of one side.

    Args:
        flops: of one piece of work; 0 if it is not about matrix products.
        peak: operations a second that the machine reaches.
    """
    own = timings[name]
    compared = ratio(timings[against], own)
    cpu = sorted(own.cpu)
    return TimingRow(
        name=name,
        kind=kind,
        against=against,
        seconds=own.seconds,
        quartiles=quartiles(own.wall),
        cpu_seconds=cpu[len(cpu) // 2],
        ratio=compared.value,
        ratio_quartiles=(compared.low, compared.high),
        share_of_peak=flops / own.seconds / peak if flops and peak else None,
    ).to_dict()
