"""Check the fields of config.json and preprocessor_config.json before they are used.

People edit these files. A value of another type, or one that contradicts the tensors,
is refused by the name of its field.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitral.errors import WeightsError

Kind = tuple[Callable[[Any], bool], str]
"""A test of a value, and what it accepts, read after "expected"."""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_list(value: Any, of: Callable[[Any], bool], *lengths: int) -> bool:
    if not isinstance(value, list | tuple) or (lengths and len(value) not in lengths):
        return False
    return all(map(of, value))


def _is_size(value: Any) -> bool:
    """Return whether a value is one side, two sides, or a mapping of named sides."""
    if isinstance(value, dict):
        names = {"shortest_edge", "longest_edge", "height", "width"}
        both = ("height" in value) == ("width" in value)
        named = {name: side for name, side in value.items() if name in names}
        return bool(named) and both and all(map(_is_count, named.values()))
    return _is_count(value) or _is_list(value, _is_count, 2)


def _is_labels(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(name, str) for name in value)
    return isinstance(value, dict) and all(
        isinstance(name, str | int) and not isinstance(name, bool)
        for name in value.values()
    )


COUNT: Kind = (_is_count, "a whole number above 0")
WHOLE: Kind = (
    lambda it: type(it) is int and 0 <= it < 2**31,
    "a whole number, 0 or more",
)
NUMBER: Kind = (_is_number, "a number")
POSITIVE: Kind = (lambda it: _is_number(it) and it > 0, "a number above 0")
SHARE: Kind = (lambda it: _is_number(it) and 0 <= it <= 1, "a number from 0 to 1")
TEXT: Kind = (lambda it: isinstance(it, str), "text")
FLAG: Kind = (lambda it: isinstance(it, bool), "true or false")
SIZE: Kind = (_is_size, "one side, two sides, or an object of named sides, in pixels")
SIDES: Kind = (
    lambda it: _is_count(it) or _is_list(it, _is_count, 2),
    "one side or [height, width] in pixels",
)
OBJECT: Kind = (lambda it: isinstance(it, dict), "an object")
TEXTS: Kind = (lambda it: _is_list(it, TEXT[0]), "a list of texts")
COUNTS: Kind = (lambda it: _is_list(it, _is_count), "a list of whole numbers above 0")
INPUT: Kind = (
    lambda it: _is_list(it, _is_count, 3),
    "[channels, height, width], whole numbers above 0",
)
LABELS: Kind = (_is_labels, "an object or a list of names")
STATISTICS: Kind = (
    lambda it: _is_number(it) or _is_list(it, _is_number, 1, 3),
    "one number or a list of three",
)
DEVIATIONS: Kind = (
    lambda it: (
        STATISTICS[0](it)
        and all(value > 0 for value in ([it] if _is_number(it) else it))
    ),
    "one number above 0 or a list of three",
)


def optional(kind: Kind) -> Kind:
    """Return the kind that accepts null as well."""
    accepts, expected = kind
    return (lambda it: it is None or accepts(it)), f"{expected}, or null"


def check_fields(
    file: Path, fields: Mapping[str, Any], kinds: Mapping[str, Kind], inside: str = ""
) -> None:
    """Refuse the first field whose value is of another kind.

    Args:
        inside: name of the object in the file that the fields are in.

    Raises:
        WeightsError: a value is of another kind.
    """
    for name, (accepts, expected) in kinds.items():
        if name in fields and not accepts(fields[name]):
            raise refusal(file, f"{inside}{name}", fields[name], expected)


def check_agreement(file: Path, pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse a field that the tensors contradict.

    Args:
        pairs: value in the file (None: not there) and value of the tensors, by field.

    Raises:
        WeightsError: two values differ.
    """
    for name, (declared, actual) in pairs.items():
        if declared is not None and declared != actual:
            raise WeightsError(
                f"{file}: `{name}` is {declared!r}, but the tensors are those of a "
                f"model with {actual!r}. One of the two belongs to another model; "
                "nothing was loaded."
            )


def refusal(file: Path, name: str, value: Any, expected: str) -> WeightsError:
    """Return the error for a field whose value cannot be used."""
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
    return WeightsError(
        f"{file}: `{name}` is {shown}, expected {expected}. Correct the field, or take "
        "the file that the weights came with; nothing was loaded."
    )


def three(value: int | float | Sequence[float]) -> tuple[float, float, float]:
    """Return the value of each colour; one number stands for all."""
    values = [value] if isinstance(value, int | float) else value
    values = [float(each) for each in values]
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue
