"""Results to plain data for JSON and back, with one sentence for what is damaged."""

from typing import Any, TypeVar

import cattrs

from vitral.errors import ConfigError

T = TypeVar("T")
_CONVERTER = cattrs.Converter()


def to_stored(kind: str, result: Any) -> dict[str, Any]:
    """Finite numbers, text, lists and None; `kind` says which result it is."""
    return {"kind": kind, **_CONVERTER.unstructure(result)}


def from_stored(result: type[T], value: dict[str, Any], name: str) -> T:
    """The inverse of `to_stored`; `name` is what the error calls the result.

    Raises:
        ConfigError: a field is missing or has another type.
    """
    try:
        return _CONVERTER.structure(value, result)
    except Exception as error:
        reasons = "; ".join(cattrs.transform_error(error))
        raise ConfigError(
            f"this is not a stored {name} result: {reasons}. Write it again with "
            "`vitral eval`."
        ) from error
