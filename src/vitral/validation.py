"""Checks of settings, with one form of sentence: what must hold, then what was given.

Each takes the values as keywords, so that the sentence names the setting:
`at_least(1, rounds=rounds)` raises "`rounds` must be at least 1: got 0."
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from vitral.errors import ConfigError

Number = int | float
Checks = dict[str, tuple[Callable[[Any], bool], str]]
"""A predicate for each field of a dataclass, in order, and what it requires."""


def at_least(minimum: Number, **values: Number) -> None:
    """Raise ConfigError unless every value is `minimum` or more."""
    for name, value in values.items():
        if not value >= minimum:
            raise ConfigError(f"`{name}` must be at least {minimum}: got {value}.")


def not_negative(**values: Number) -> None:
    """Raise ConfigError unless every value is 0 or more."""
    for name, value in values.items():
        if not value >= 0:
            raise ConfigError(f"`{name}` must not be negative: got {value}.")


def above_zero(**values: Number) -> None:
    """Raise ConfigError unless every value is above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"`{name}` must be above 0: got {value}.")


def fraction(**values: Number) -> None:
    """Raise ConfigError unless every value is at least 0 and below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ConfigError(f"`{name}` must be at least 0 and below 1: got {value}.")


def between(low: Number, high: Number, **values: Number) -> None:
    """Raise ConfigError unless every value lies in [low, high]."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ConfigError(
                f"`{name}` must lie between {low} and {high}: got {value}."
            )


def one_of(choices: Iterable[str], **values: str) -> None:
    """Raise ConfigError unless every value is one of `choices`."""
    names = tuple(choices)
    for name, value in values.items():
        if value not in names:
            raise ConfigError(f"`{name}` must be {_join_quoted(names)}: got {value!r}.")


def check_fields(config: type, values: dict[str, Any], checks: Checks) -> None:
    """Raise ConfigError for a key that is no field, or the first value not allowed."""
    unknown = sorted(set(values) - set(checks))
    if unknown:
        raise ConfigError(
            f"{config.__name__} has no field {', '.join(map(repr, unknown))}; expected "
            f"some of {', '.join(checks)}. Correct or remove the key."
        )
    for name, value in values.items():
        is_valid, expected = checks[name]
        try:
            valid = is_valid(value)
        except (TypeError, ValueError, OverflowError):
            valid = False
        if not valid:
            raise ConfigError(
                f"`{config.__name__}.{name}` must be {expected}: got {_shorten(value)}."
            )


def nearest_names(
    name: str, names: Iterable[str], count: int = 2, cutoff: float = 0.6
) -> list[str]:
    """Return the `names` that a mistyped `name` may stand for, the nearest first."""
    return difflib.get_close_matches(name, list(names), n=count, cutoff=cutoff)


def suggestion(
    name: str, names: Iterable[str], count: int = 2, cutoff: float = 0.6
) -> str:
    """Return " Did you mean a or b?", with a leading space; empty if none is near."""
    near = nearest_names(name, names, count, cutoff)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _shorten(value: Any) -> str:
    """Return a value for a message, which may come from a stranger's file."""
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"
    if isinstance(value, dict | list | tuple) and len(value) > 60:
        return f"{len(value)} of them"
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def _join_quoted(names: tuple[str, ...]) -> str:
    quoted = [repr(name) for name in names]
    if len(quoted) == 1:
        return quoted[0]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
