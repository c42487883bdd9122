"""Measurements of the candidates, and the choice between them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vitral.autotune.candidate import Candidate


@dataclass(frozen=True, kw_only=True)
class Point:
    """Speed and accuracy of one candidate."""

    candidate: Candidate
    ms: float
    """Milliseconds per image, the median of the rounds."""
    ms_range: tuple[float, float]
    """First and third quartile of the rounds."""
    first_ms: float
    """Milliseconds per image of the baseline, interleaved."""
    speedup: float
    """Median ratio of the baseline's time to this, interleaved."""
    accuracy: float
    """Top-1 accuracy, 0..1."""
    interval: tuple[float, float]
    """95 % Wilson interval of the accuracy."""
    drop: float
    """Points of accuracy lost against the baseline on the same images."""
    drop_interval: tuple[float, float]
    """95 % interval from a paired bootstrap over images."""
    images: int

    def row(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        height, width = self.candidate.image_size
        settings = {**asdict(self.candidate), "image_size": f"{height}x{width}"}
        return {
            **settings,
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
    """Return the fastest point within `max_drop` points of accuracy lost.

    With `max_ms` alone, the most accurate one, or the faster of equals. None if no
    point meets the bounds.
    """
    candidates = [
        point
        for point in points
        if (max_drop is None or point.drop <= max_drop)
        and (max_ms is None or point.ms <= max_ms)
    ]
    if max_drop is None:
        return max(candidates, key=lambda p: (p.accuracy, p.speedup), default=None)
    return max(candidates, key=lambda p: p.speedup, default=None)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the Pareto-optimal points in speed and accuracy, fastest first."""
    optimal: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.speedup, -p.accuracy)):
        if not optimal or point.accuracy > optimal[-1].accuracy:
            optimal.append(point)
    return optimal


def as_csv(points: Sequence[Point]) -> str:
    """Return a CSV table with a row per point."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(points[0].row()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(point.row() for point in points)
    return text.getvalue()


def as_markdown(points: Sequence[Point], chosen: Point | None) -> str:
    """Return a Markdown table, fastest first; the chosen point is bold."""
    lines = [
        "| way | ms an image (quartiles) | speed-up | accuracy (95 %) | points lost "
        "(95 %) |",
        "|---|---:|---:|---:|---:|",
    ]
    for point in sorted(points, key=lambda p: -p.speedup):
        name = f"**{point.candidate}**" if point is chosen else str(point.candidate)
        low, high = point.ms_range
        accuracy_low, accuracy_high = point.interval
        drop_low, drop_high = point.drop_interval
        lines.append(
            f"| {name} | {point.ms:.2f} ({low:.2f} to {high:.2f}) | "
            f"{point.speedup:.2f} | {100 * point.accuracy:.1f} % "
            f"({100 * accuracy_low:.1f} to {100 * accuracy_high:.1f}) | "
            f"{point.drop:+.2f} ({drop_low:+.2f} to {drop_high:+.2f}) |"
        )
    return "\n".join(lines) + "\n"
