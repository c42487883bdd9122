"""The transfer table itself: its cells, its means, its text."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitral.evaluation import Interval


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """One cell: a number with its interval, or the reason why there is none."""

    weights: str
    data: str
    protocol: str
    accuracy: float | None = None
    """On the test split, 0..1; the mean where there were several draws or seeds."""
    interval: Interval | None = None
    of: str = "images"
    """What the interval is over: Wilson's 95 % over `images`, or the lowest and the
    highest of so many draws or seeds."""
    n: int = 0
    """Test images."""
    seconds: float = 0.0
    """That computing it took, whenever that was."""
    fresh: bool = False
    """Whether it was computed now."""
    error: str = ""
    exit_code: int = 0

    def __str__(self) -> str:
        if self.accuracy is None or self.interval is None:
            return f"failed: {self.error}"
        low, high = self.interval
        return (
            f"{100 * self.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f}), "
            f"{_format_duration(self.seconds)}{'' if self.fresh else ', kept'}"
        )


@dataclass(frozen=True, kw_only=True)
class TransferTable:
    """Weights by data, once for each protocol."""

    weights: tuple[str, ...]
    data: tuple[str, ...]
    protocols: tuple[str, ...]
    entries: tuple[TransferResult, ...]

    def entry(self, weights: str, data: str, protocol: str) -> TransferResult:
        """One cell."""
        wanted = (weights, data, protocol)
        return next(
            entry
            for entry in self.entries
            if (entry.weights, entry.data, entry.protocol) == wanted
        )

    def mean(self, weights: str, protocol: str) -> float | None:
        """The plain mean over the data sets; None if a cell of them failed."""
        values = [self.entry(weights, data, protocol).accuracy for data in self.data]
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if len(there) == len(values) else None

    @property
    def failures(self) -> tuple[TransferResult, ...]:
        """The cells without a number."""
        return tuple(entry for entry in self.entries if entry.accuracy is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        means = [
            {"weights": name, "protocol": protocol, "mean": self.mean(name, protocol)}
            for name in self.weights
            for protocol in self.protocols
        ]
        return {
            "kind": "transfer",
            "weights": list(self.weights),
            "data": list(self.data),
            "protocols": list(self.protocols),
            "cells": [asdict(entry) for entry in self.entries],
            "means": means,
        }

    def markdown(self) -> str:
        """One table for each protocol, and the reasons of what failed."""
        parts = []
        rows, sets = _shorten_names(self.weights), _shorten_names(self.data)
        for protocol in self.protocols:
            cells = [["weights", *(sets[name] for name in self.data), "mean"]]
            for name in self.weights:
                found = [self.entry(name, data, protocol) for data in self.data]
                mean = self.mean(name, protocol)
                cells.append(
                    [
                        rows[name],
                        *(
                            "failed" if e.accuracy is None else _format_cell(e)
                            for e in found
                        ),
                        "-" if mean is None else f"{100 * mean:.1f}",
                    ]
                )
            parts.append(
                f"## {protocol}\n\n{_format_table(cells)}\n\n{self._note(protocol)}"
            )
        if self.failures:
            reasons: dict[str, list[str]] = {}
            for e in self.failures:
                cell = f"{rows[e.weights]}, {sets[e.data]}, {e.protocol}"
                reasons.setdefault(e.error, []).append(cell)
            lines = [f"- {'; '.join(cells)}: {why}" for why, cells in reasons.items()]
            parts.append("## Failed\n\n" + "\n".join(lines))
        return "\n\n".join(parts) + "\n"

    def _note(self, protocol: str) -> str:
        kinds = {e.of for e in self.entries if e.protocol == protocol and not e.error}
        texts = [
            "the 95 % interval over test images"
            if kind == "images"
            else f"the lowest and the highest of {kind}"
            for kind in sorted(kinds)
        ]
        inside = " or ".join(texts) or "nothing: no cell has a number"
        return f"Test accuracy in %, in brackets {inside}; then the time it took."


def _format_cell(entry: TransferResult) -> str:
    assert entry.accuracy is not None
    assert entry.interval is not None
    low, high = entry.interval
    return (
        f"{100 * entry.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f}) "
        f"{_format_duration(entry.seconds)}"
    )


def _format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:.1f} h"


def _shorten_names(names: tuple[str, ...]) -> dict[str, str]:
    """The last word of each path, where no other has the same."""
    last = {name: Path(name).name or name for name in names}
    words = list(last.values())
    return {
        name: last[name] if words.count(last[name]) == 1 else name for name in names
    }


def _format_table(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| "
        + " | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True))
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
