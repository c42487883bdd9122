"""Read JSON that a stranger may have written, and check it by a schema.

A schema is a type (`int` and `float` are finite numbers, bool apart), a tuple of
alternatives with None for null, `[schema]` for a list, `{str: schema}` for an object of
any keys, or an object with a schema for each known key; other keys are left alone.
"""

import json
import math
from pathlib import Path
from typing import Any

from vitral.errors import ConfigError, VitralError

MAX_BYTES = 512 * 2**20
"""Largest file that is read: a list of ten million images has less."""
MAX_DEPTH = 100
TOO_DEEP = "its objects and lists are nested too deeply"
MAX_SHOWN = 60
_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    None: "null",
}


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; NaN, infinity and a nesting without end are refused.

    Raises:
        ValueError: it is not JSON; the message is the reason.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_parse_float)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = (
            [
                inner
                for outer in layer
                for inner in (outer.values() if isinstance(outer, dict) else outer)
                if isinstance(inner, dict | list)
            ]
            if isinstance(layer[0], dict | list)
            else []
        )
        if not layer:
            return value
    raise ValueError(TOO_DEEP)


def read_object(
    file: Path, error: type[VitralError] = ConfigError, advice: str = ""
) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        error: kind of the error.
        advice: what to do about a damaged file.

    Raises:
        VitralError: of the kind `error`: it cannot be read, or is no JSON object.
    """
    advice = advice or "Restore the file, or write it again."
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise error(
                f"{file} has {size:,} bytes, and at most {MAX_BYTES:,} of JSON are "
                f"read. {advice}"
            )
        value = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        if isinstance(reason, VitralError):
            raise
        raise error(f"{file} is not readable JSON ({reason}). {advice}") from reason
    if not isinstance(value, dict):
        raise error(
            f"{file} must hold a JSON object: got {type(value).__name__}. {advice}"
        )
    return value


def check_schema(file: Path, value: Any, schema: Any, error: type[VitralError]) -> None:
    """Refuse the first value that is not of the schema, by the name of its field.

    Raises:
        VitralError: of the kind `error`.
    """
    found = _find_fault(value, schema, "")
    if found is not None:
        field, wrong, expected = found
        where = f"`{field}` is" if field else "its content is"
        raise error(
            f"{file}: {where} {shorten(wrong)}, expected {expected}. It was edited, "
            "or comes from another version of vitral: restore the file."
        )


def shorten(value: Any) -> str:
    """Return the start of a value for a message."""
    if isinstance(value, int) and abs(value) >= 10**MAX_SHOWN:
        return "a number of more than 60 digits"
    if isinstance(value, dict | list | tuple) and len(value) > MAX_SHOWN:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    shown = ascii(value) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:MAX_SHOWN]} is too large a number")
    return value


def _find_fault(value: Any, schema: Any, at: str) -> tuple[str, Any, str] | None:
    """Return place, value and expectation of the first fault; None without one."""
    if isinstance(schema, tuple):
        faults = [_find_fault(value, each, at) for each in schema]
        if None in faults:
            return None
        # The fault inside a list or an object says more than that it is none.
        deepest = max((f for f in faults if f), key=lambda fault: len(fault[0]))
        return deepest if deepest[0] != at else (at, value, _describe(schema))
    if isinstance(schema, list) and isinstance(value, list):
        items = ((f"{at}[{i}]", item, schema[0]) for i, item in enumerate(value))
    elif isinstance(schema, dict) and isinstance(value, dict):
        keys = [key for key in value if str in schema or key in schema]
        dot = f"{at}." if at else ""
        items = (
            (f"{dot}{key}", value[key], schema.get(key, schema.get(str)))
            for key in keys
        )
    else:
        return None if _is_of(value, schema) else (at, value, _describe(schema))
    found = (_find_fault(item, inner, place) for place, item, inner in items)
    return next((fault for fault in found if fault), None)


def _is_of(value: Any, schema: Any) -> bool:
    if schema is None or isinstance(schema, list | dict):
        return schema is None and value is None
    if isinstance(value, bool) or schema is bool:
        return isinstance(value, bool) and schema is bool
    if schema is int:
        # Numbers of a file fit into 64 bits.
        return isinstance(value, int) and abs(value) < 2**63
    if schema is float:
        return isinstance(value, int | float) and abs(value) < 1e300
    return isinstance(value, schema)


def _describe(schema: Any) -> str:
    if isinstance(schema, tuple):
        return " or ".join(dict.fromkeys(map(_describe, schema)))
    kind = type(schema) if isinstance(schema, list | dict) else schema
    return _WORDS[kind]
