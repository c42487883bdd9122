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


def _parse_float(value: Any, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _parse_int(value: Any, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


def _parse_bool(value: Any, _: type) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r}")
    return value


def _parse_str(value: Any, _: type) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    return value


def _parse_size(value: Any, _: type) -> int | tuple[int, int]:
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"expected one number or two, got {value!r}")
        return (_parse_int(value[0], int), _parse_int(value[1], int))
    return _parse_int(value, int)


_STRICT.register_structure_hook(float, _parse_float)
_STRICT.register_structure_hook(int, _parse_int)
_STRICT.register_structure_hook(bool, _parse_bool)
_STRICT.register_structure_hook(str, _parse_str)
_STRICT.register_structure_hook(int | tuple[int, int], _parse_size)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested dictionaries of JSON's types.

    One of several kinds, with a `NAME`, gets that name as its first field.
    """
    plain: dict[str, Any] = _to_builtins(config)
    return plain


def from_dict(config_type: type[T], values: Mapping[str, Any], where: str | Path) -> T:
    """The dataclass `config_type` from nested dictionaries.

    Args:
        where: what the values came from, named in an error.

    Raises:
        ConfigError: a field is unknown or of the wrong type.
    """
    try:
        return _STRICT.structure(dict(values), config_type)
    except ConfigError:
        raise
    except Exception as error:
        own = _find_config_error(error)
        if own is not None:
            raise ConfigError(f"{where}: {own}") from error
        found = cattrs.transform_error(
            error, path="settings", format_exception=_format_reason
        )
        reasons = "; ".join(found)
        raise ConfigError(
            f"{where} does not hold valid settings: {reasons}. It may come from "
            "another version of vitral; correct the field or remove it."
        ) from error


def _find_config_error(error: BaseException) -> ConfigError | None:
    """The sentence of a config's own `__post_init__`, if that is what went wrong."""
    if isinstance(error, ConfigError):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next(
        (own for own in map(_find_config_error, inner) if own is not None), None
    )


def _format_reason(error: BaseException, kind: Any) -> str:
    """Our own words where they are ours; cattrs would say "invalid value" only."""
    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError | KeyError):
        return cattrs.v.format_exception(error, kind)
    return str(error)


def _to_builtins(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        named = getattr(value, "NAME", "")
        name = {"name": named} if named else {}
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {**name, **_to_builtins(fields)}
    if isinstance(value, dict):
        return {key: _to_builtins(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_builtins(item) for item in value]
    return value


def _is_choice(kind: Any) -> bool:
    """Whether a class stands for those that derive from it, told apart by `NAME`."""
    return isinstance(kind, type) and getattr(kind, "NAME", None) == ""


def _make_choice_hook(kind: Any) -> Any:
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


_STRICT.register_structure_hook_factory(_is_choice, _make_choice_hook)


_CONVERTER = cattrs.Converter()


def result_to_dict(kind: str, result: Any) -> dict[str, Any]:
    """Finite numbers, text, lists and None; `kind` says which result it is."""
    return {"kind": kind, **_CONVERTER.unstructure(result)}


def result_from_dict(result: type[T], value: dict[str, Any], name: str) -> T:
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
