"""`TransferTable`: the cells of a transfer, their means, and the text of the table."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitral.evaluation import Interval
from vitral.evaluation.intervals import format_percent


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """One cell: an accuracy with its interval, or the error that prevented it."""

    weights: str
    data: str
    protocol: str
    accuracy: float | None = None
    """Accuracy on test, 0..1; the mean over several draws or seeds."""
    interval: Interval | None = None
    of: str = "images"
    """Source of the interval: Wilson's 95 % over `images`, or the range over draws or
    seeds."""
    n: int = 0
    """Number of test images."""
    seconds: float = 0.0
    """Seconds that the computation took, now or earlier."""
    fresh: bool = False
    """True if it was computed now."""
    error: str = ""
    exit_code: int = 0

    def __str__(self) -> str:
        if self.accuracy is None or self.interval is None:
            return f"failed: {self.error}"
        return (
            f"{100 * self.accuracy:.1f} % ({format_percent(self.interval)}), "
            f"{_format_duration(self.seconds)}{'' if self.fresh else ', kept'}"
        )


@dataclass(frozen=True, kw_only=True)
class TransferTable:
    """Accuracies of weights on data, one table per protocol."""

    weights: tuple[str, ...]
    data: tuple[str, ...]
    protocols: tuple[str, ...]
    entries: tuple[TransferResult, ...]

    def entry(self, weights: str, data: str, protocol: str) -> TransferResult:
        """Return one cell."""
        key = (weights, data, protocol)
        return next(e for e in self.entries if (e.weights, e.data, e.protocol) == key)

    def mean(self, weights: str, protocol: str) -> float | None:
        """Return the mean over the data sets; None if one of the cells failed."""
        values = [self.entry(weights, data, protocol).accuracy for data in self.data]
        valid = [value for value in values if value is not None]
        return sum(valid) / len(valid) if len(valid) == len(values) else None

    @property
    def failures(self) -> tuple[TransferResult, ...]:
        """Cells without an accuracy."""
        return tuple(entry for entry in self.entries if entry.accuracy is None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
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
        """Format one table per protocol, and the errors of the failed cells."""
        parts = []
        rows, sets = _shorten_names(self.weights), _shorten_names(self.data)
        for protocol in self.protocols:
            cells = [["weights", *(sets[name] for name in self.data), "mean"]]
            for name in self.weights:
                entries = [self.entry(name, data, protocol) for data in self.data]
                mean = self.mean(name, protocol)
                cells.append(
                    [
                        rows[name],
                        *(
                            "failed" if e.accuracy is None else _format_cell(e)
                            for e in entries
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
        sources = {e.of for e in self.entries if e.protocol == protocol and not e.error}
        texts = [
            "the 95 % interval over test images"
            if source == "images"
            else f"the lowest and the highest of {source}"
            for source in sorted(sources)
        ]
        brackets = " or ".join(texts) or "nothing: no cell has a number"
        return f"Test accuracy in %, in brackets {brackets}; then the time it took."


def _format_cell(entry: TransferResult) -> str:
    assert entry.accuracy is not None
    assert entry.interval is not None
    return (
        f"{100 * entry.accuracy:.1f} ({format_percent(entry.interval)}) "
        f"{_format_duration(entry.seconds)}"
    )


def _format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:.1f} h"


def _shorten_names(names: tuple[str, ...]) -> dict[str, str]:
    """Shorten each path to its last part, unless another one ends with the same."""
    last = {name: Path(name).name or name for name in names}
    counts = Counter(last.values())
    return {name: last[name] if counts[last[name]] == 1 else name for name in names}


def _format_table(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
