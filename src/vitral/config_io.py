"""Configs to plain data and back, strictly: an unknown or mistyped field is an error.

Only plain data goes in and out; no string here ever names code to import.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs.strategies import configure_union_passthrough

from vitral.errors import ConfigError

T = TypeVar("T")

_STRICT = cattrs.Converter(
    forbid_extra_keys=True, prefer_attrib_converters=False, detailed_validation=True
)
configure_union_passthrough(str | bool | int | float | None, _STRICT)


def _number(value: Any, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _whole(value: Any, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


def _flag(value: Any, _: type) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r}")
    return value


def _text(value: Any, _: type) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    return value


def _size(value: Any, _: type) -> int | tuple[int, int]:
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"expected one number or two, got {value!r}")
        return (_whole(value[0], int), _whole(value[1], int))
    return _whole(value, int)


_STRICT.register_structure_hook(float, _number)
_STRICT.register_structure_hook(int, _whole)
_STRICT.register_structure_hook(bool, _flag)
_STRICT.register_structure_hook(str, _text)
_STRICT.register_structure_hook(int | tuple[int, int], _size)


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as nested dictionaries of JSON's types.

    One of several kinds, with a `NAME`, gets that name as its first field.
    """
    plain: dict[str, Any] = _plain(config)
    return plain


def from_plain(kind: type[T], values: Mapping[str, Any], where: str | Path) -> T:
    """The dataclass `kind` from nested dictionaries.

    Args:
        where: what the values came from, named in an error.

    Raises:
        ConfigError: a field is unknown or of the wrong type.
    """
    try:
        return _STRICT.structure(dict(values), kind)
    except ConfigError:
        raise
    except Exception as error:
        own = _own(error)
        if own is not None:
            raise ConfigError(f"{where}: {own}") from error
        found = cattrs.transform_error(error, path="settings", format_exception=_reason)
        reasons = "; ".join(found)
        raise ConfigError(
            f"{where} does not hold valid settings: {reasons}. It may come from "
            "another version of vitral; correct the field or remove it."
        ) from error


def _own(error: BaseException) -> ConfigError | None:
    """The sentence of a config's own `__post_init__`, if that is what went wrong."""
    if isinstance(error, ConfigError):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((own for own in map(_own, inner) if own is not None), None)


def _reason(error: BaseException, kind: Any) -> str:
    """Our own words where they are ours; cattrs would say "invalid value" only."""
    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError | KeyError):
        return cattrs.v.format_exception(error, kind)
    return str(error)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        named = getattr(value, "NAME", "")
        name = {"name": named} if named else {}
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {**name, **_plain(fields)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _is_choice(kind: Any) -> bool:
    """Whether a class stands for those that derive from it, told apart by `NAME`."""
    return isinstance(kind, type) and getattr(kind, "NAME", None) == ""


def _kind_by_name(kind: Any) -> Any:
    known = {derived.NAME: derived for derived in kind.__subclasses__()}

    def structure(values: Any, _: type) -> Any:
        if not isinstance(values, Mapping):
            raise ValueError(f"expected fields, got {values!r}")
        rest = dict(values)
        name = rest.pop("name", kind.DEFAULT)
        if name not in known:
            raise ValueError(
                f"`name` must be one of {', '.join(sorted(known))}: got {name!r}"
            )
        return _STRICT.structure(rest, known[name])

    return structure


_STRICT.register_structure_hook_factory(_is_choice, _kind_by_name)


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
