"""Strict conversion of configs to plain data and back: unknown fields are errors.

Plain data never names code to import.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs.strategies import configure_union_passthrough

from vitral.errors import ConfigError

T = TypeVar("T")
MAX_REASON = 400
"""Characters of a reason in an error: a stranger's file may hold a text without end."""
MAX_REASONS = 8

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


def _parse_float_or_str(value: Any, _: Any) -> float | str:
    return value if isinstance(value, str) else _parse_float(value, float)


_STRICT.register_structure_hook(float, _parse_float)
_STRICT.register_structure_hook(int, _parse_int)
_STRICT.register_structure_hook(bool, _parse_bool)
_STRICT.register_structure_hook(str, _parse_str)
_STRICT.register_structure_hook(int | tuple[int, int], _parse_size)
_STRICT.register_structure_hook_func(
    lambda hint: hint == float | str, _parse_float_or_str
)


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a dataclass to nested dictionaries of JSON's types.

    A dataclass with a `NAME`, one of several alternatives, has it as its first field.
    """
    plain: dict[str, Any] = _to_builtins(config)
    return plain


def from_dict(config_type: type[T], values: Mapping[str, Any], where: str | Path) -> T:
    """Build the dataclass `config_type` from nested dictionaries.

    Args:
        where: source of the values, named in an error.

    Raises:
        ConfigError: a field is unknown or of the wrong type.
    """
    try:
        return _STRICT.structure(dict(values), config_type)
    except ConfigError:
        raise
    except Exception as error:
        config_error = _find_config_error(error)
        if config_error is not None:
            raise ConfigError(f"{where}: {config_error}") from error
        reasons = "; ".join(
            reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}..."
            for reason in cattrs.transform_error(
                error, path="settings", format_exception=_format_reason
            )[:MAX_REASONS]
        )
        raise ConfigError(
            f"{where} does not hold valid settings: {reasons}. It may come from "
            "another version of vitral; correct the field or remove it."
        ) from error


def _find_config_error(error: BaseException) -> ConfigError | None:
    """Return the error of a config's own `__post_init__`, if that is the cause."""
    if isinstance(error, ConfigError):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    config_errors = map(_find_config_error, inner)
    return next((error for error in config_errors if error is not None), None)


def _format_reason(error: BaseException, cls: Any) -> str:
    """Format our own messages, for which cattrs would say "invalid value" only."""
    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError | KeyError):
        return cattrs.v.format_exception(error, cls)
    return str(error)


def _to_builtins(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        name = getattr(value, "NAME", "")
        title = {"name": name} if name else {}
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {**title, **_to_builtins(fields)}
    if isinstance(value, dict):
        return {key: _to_builtins(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_builtins(item) for item in value]
    return value


def _is_choice(cls: Any) -> bool:
    """Return whether a class stands for its subclasses, distinguished by `NAME`."""
    return isinstance(cls, type) and getattr(cls, "NAME", None) == ""


def _make_choice_hook(cls: Any) -> Any:
    by_name = {derived.NAME: derived for derived in cls.__subclasses__()}

    def structure(values: Any, _: type) -> Any:
        if not isinstance(values, Mapping):
            raise ValueError(f"expected fields, got {values!r}")
        rest = dict(values)
        name = rest.pop("name", cls.DEFAULT)
        if name not in by_name:
            raise ValueError(
                f"`name` must be one of {', '.join(sorted(by_name))}: got {name!r}"
            )
        return _STRICT.structure(rest, by_name[name])

    return structure


_STRICT.register_structure_hook_factory(_is_choice, _make_choice_hook)


_CONVERTER = cattrs.Converter()


def result_to_dict(kind: str, result: Any) -> dict[str, Any]:
    """Convert a result to plain data; `kind` says which result it is."""
    return {"kind": kind, **_CONVERTER.unstructure(result)}


def result_from_dict(result: type[T], value: dict[str, Any], name: str) -> T:
    """Invert `result_to_dict`; `name` is the result's name in an error.

    Raises:
        ConfigError: a field is missing or has another type.
    """
    try:
        return _CONVERTER.structure(value, result)
    except Exception as error:
        reasons = "; ".join(
            reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}..."
            for reason in cattrs.transform_error(error)[:MAX_REASONS]
        )
        raise ConfigError(
            f"this is not a stored {name} result: {reasons}. Write it again with "
            "`vitral eval`."
        ) from error
