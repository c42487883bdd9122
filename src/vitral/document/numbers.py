"""Numbers with their source, and sentences that contain them.

Every number of a report is an HTML `<data>` element with the exact value and its
source: a file of the run, `#`, and a JSON pointer (RFC 6901). A test follows each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitral.evaluation import Interval
from vitral.plots.style import PERCENT

NONE = "–"


@dataclass(frozen=True, slots=True)
class Number:
    """A value, its text, and its source in the run."""

    value: float | int | None
    text: str
    source: str
    """`file#/json/pointer`; row and column of a CSV, line, field of metrics.jsonl."""
    how: str = "value"
    """`value`, or the function of the source: `sum`, `length`."""


@dataclass(frozen=True, slots=True)
class Strong:
    """Words in bold."""

    text: str


Text = Sequence[str | Number | Strong]
"""A sentence in parts, so that its numbers keep their sources."""


def pointer(file: str, *keys: str | int) -> str:
    """Return `file#/key/key`, with `~` and `/` inside keys escaped."""
    parts = [str(key).replace("~", "~0").replace("/", "~1") for key in keys]
    return f"{file}#" + "".join(f"/{part}" for part in parts)


def share(value: float | None, source: str, unit: str = PERCENT) -> Number:
    """Return a share in 0..1 as a percentage with one decimal."""
    if value is None:
        return Number(None, NONE, source)
    return Number(value, f"{100 * value:.1f}{unit}", source)


def count(value: int, source: str, how: str = "value") -> Number:
    """Return an integer with thousands separated."""
    return Number(value, f"{value:,}", source, how)


def decimal(value: float | None, source: str, digits: int = 3) -> Number:
    """Return a number with a fixed number of decimals."""
    if value is None:
        return Number(None, NONE, source)
    return Number(value, f"{value:.{digits}f}", source)


def significant(value: float | None, source: str, digits: int = 4) -> Number:
    """Return a number of any size with so many significant digits."""
    if value is None:
        return Number(None, NONE, source)
    power = math.floor(math.log10(abs(value))) if value else 0
    decimals = min(max(digits - 1 - power, 0), 12)
    return Number(value, f"{value:,.{decimals}f}", source)


def large(value: float | int, source: str) -> Number:
    """Return a number with three significant digits and k, M, G or T."""
    text = f"{value:,.0f}"
    if abs(value) >= 10_000:
        power = min(int(math.log10(abs(value)) // 3), 4)
        text = f"{value / 1000**power:.3g}\N{NO-BREAK SPACE}{'kMGT'[power - 1]}"
    return Number(value, text, source)


def interval(value: Interval, source: str) -> list[str | Number]:
    """Return `92.9 to 97.3 %` in parts."""
    return [
        share(value.low, f"{source}/0", unit=""),
        " to ",
        share(value.high, f"{source}/1"),
    ]


def number_interval(value: Interval, source: str) -> list[str | Number]:
    """Return `0.92 to 1.31` in parts, for numbers that are no shares."""
    return [
        significant(value.low, f"{source}/0", 3),
        " to ",
        significant(value.high, f"{source}/1", 3),
    ]


def to_text(text: Text) -> str:
    """Return the sentence without its sources."""
    return "".join(part if isinstance(part, str) else part.text for part in text)


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested plain data as pairs of `a.b.c` and text, in order."""
    if isinstance(value, dict):
        return [
            pair
            for key, part in value.items()
            for pair in flatten(part, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        return [
            pair
            for i, part in enumerate(value)
            for pair in flatten(part, f"{prefix}.{i}")
        ]
    if isinstance(value, list):
        return [(prefix, ", ".join(_format_value(part) for part in value))]
    return [(prefix, _format_value(value))]


def _format_value(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
