"""What was measured of each candidate, and which one to take."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vitral.autotune.candidate import Candidate


@dataclass(frozen=True, kw_only=True)
class Point:
    """One candidate, measured."""

    candidate: Candidate
    ms: float
    """Milliseconds an image, the median of the rounds."""
    ms_range: tuple[float, float]
    """First and third quartile of the rounds."""
    first_ms: float
    """Of the first candidate in the same turns."""
    speedup: float
    """Against the first candidate, timed in turns with it: the median ratio."""
    accuracy: float
    """Share of the images that are named right."""
    interval: tuple[float, float]
    """95 %, Wilson's."""
    drop: float
    """Points of accuracy lost against the first candidate, on the same images."""
    drop_interval: tuple[float, float]
    """95 %, over images drawn again in pairs."""
    images: int

    def row(self) -> dict[str, Any]:
        """Its numbers as plain values."""
        height, width = self.candidate.image_size
        about = {**asdict(self.candidate), "image_size": f"{height}x{width}"}
        return {
            **about,
            "ms": round(self.ms, 3),
            "ms_low": round(self.ms_range[0], 3),
            "ms_high": round(self.ms_range[1], 3),
            "first_ms": round(self.first_ms, 3),
            "speedup": round(self.speedup, 3),
            "accuracy": round(self.accuracy, 5),
            "accuracy_low": round(self.interval[0], 5),
            "accuracy_high": round(self.interval[1], 5),
            "drop": round(self.drop, 3),
            "drop_low": round(self.drop_interval[0], 3),
            "drop_high": round(self.drop_interval[1], 3),
            "images": self.images,
        }


def choose(
    points: Sequence[Point], max_drop: float | None, max_ms: float | None
) -> Point | None:
    """The fastest point within `max_drop` points; of `max_ms` alone the most accurate.

    Of equally accurate ones the faster. None when no point meets the bounds.
    """
    good = [
        point
        for point in points
        if (max_drop is None or point.drop <= max_drop)
        and (max_ms is None or point.ms <= max_ms)
    ]
    if max_drop is None:
        return max(good, key=lambda p: (p.accuracy, p.speedup), default=None)
    return max(good, key=lambda p: p.speedup, default=None)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both speed and accuracy, fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.speedup, -p.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def as_csv(points: Sequence[Point]) -> str:
    """A row a point."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(points[0].row()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(point.row() for point in points)
    return text.getvalue()


def as_markdown(points: Sequence[Point], chosen: Point | None) -> str:
    """A table, fastest first; the chosen point is bold."""
    lines = [
        "| way | ms an image (quartiles) | speed-up | accuracy (95 %) | points lost "
        "(95 %) |",
        "|---|---:|---:|---:|---:|",
    ]
    for point in sorted(points, key=lambda p: -p.speedup):
        name = f"**{point.candidate}**" if point is chosen else str(point.candidate)
        low, high = point.ms_range
        least, most = point.interval
        fewer, more = point.drop_interval
        lines.append(
            f"| {name} | {point.ms:.2f} ({low:.2f} to {high:.2f}) | "
            f"{point.speedup:.2f} | {100 * point.accuracy:.1f} % "
            f"({100 * least:.1f} to {100 * most:.1f}) | "
            f"{point.drop:+.2f} ({fewer:+.2f} to {more:+.2f}) |"
        )
    return "\n".join(lines) + "\n"
