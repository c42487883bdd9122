"""Numbers that remember where they came from.

Every number of a report is an HTML `<data>` element with the exact value and its
source: a file of the run, `#`, and a JSON pointer (RFC 6901). A test follows each.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from vitral.evaluation import Interval
from vitral.plots.style import PERCENT

NONE = "–"


class Number(NamedTuple):
    """A value, how it is written, and where the run holds it."""

    value: float | int | None
    text: str
    source: str
    """`file#/json/pointer`; row and column of a CSV, line, field of metrics.jsonl."""
    how: str = "value"
    """`value`, or how it follows from the source: `sum`, `length`."""


Text = Sequence[str | Number]
"""A sentence in parts."""


def pointer(file: str, *keys: str | int) -> str:
    """`file#/key/key`, with `~` and `/` inside keys escaped."""
    parts = [str(key).replace("~", "~0").replace("/", "~1") for key in keys]
    return f"{file}#" + "".join(f"/{part}" for part in parts)


def share(value: float | None, source: str, unit: str = PERCENT) -> Number:
    """A share in 0..1 as a percentage with one decimal."""
    if value is None:
        return Number(None, NONE, source)
    return Number(value, f"{100 * value:.1f}{unit}", source)


def count(value: int, source: str, how: str = "value") -> Number:
    """A whole number with thousands separated."""
    return Number(value, f"{value:,}", source, how)


def decimal(value: float | None, source: str, digits: int = 3) -> Number:
    """A number with a fixed number of decimals."""
    if value is None:
        return Number(None, NONE, source)
    return Number(value, f"{value:.{digits}f}", source)


def large(value: float | int, source: str) -> Number:
    """Three significant digits with k, M, G or T."""
    text = f"{value:,.0f}"
    if abs(value) >= 10_000:
        power = min(int(math.log10(abs(value)) // 3), 4)
        text = f"{value / 1000**power:.3g}\N{NO-BREAK SPACE}{'kMGT'[power - 1]}"
    return Number(value, text, source)


def interval(value: Interval, source: str) -> list[str | Number]:
    """`92.9 to 97.3 %`."""
    return [
        share(value.low, f"{source}/0", unit=""),
        " to ",
        share(value.high, f"{source}/1"),
    ]


def to_text(text: Text) -> str:
    """The sentence without its sources."""
    return "".join(part if isinstance(part, str) else part.text for part in text)


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as `a.b.c` and text, in the order of the file."""
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
