"""Fields of a nested config dataclass as flags: `--lr` for `optim.lr`.

Hand-written, not tyro: to find DATA, the parser must know how many words follow each
flag, and tyro shows that only through `get_parser`, deprecated in 1.0.
"""

import argparse
import ast
import dataclasses
import functools
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar

from vitral.cli.parser import Parser
from vitral.errors import ConfigError

Config = TypeVar("Config")
ALIASES = {"image_size": ("--img-size",), "batch_size": ("-b",)}
"""timm's flags of fields that are spelled differently here."""
JSON_LITERALS = {"True": "true", "False": "false", "None": "null"}
PREFIX = "config."


def add_config_flags(
    parser: Parser, config: Any, skip: Collection[str] = (), path: str = PREFIX
) -> None:
    """Add a flag for every field, grouped by the nested config that it belongs to.

    Args:
        skip: names of outer fields.
        path: names from the outermost config down, with dots.
    """
    owner: type = type(config)
    hints, docs = typing.get_type_hints(owner), field_docs(owner)
    group = parser.add_argument_group(path.split(".")[-2].replace("config", "run"))
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if name in skip:
            continue
        if dataclasses.is_dataclass(value):
            add_config_flags(parser, value, path=f"{path}{name}.")
            continue
        text = f"{docs.get(name, '')} (default: {_format_value(value)})"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            *ALIASES.get(name, ()),
            dest=path + name,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **_settings(hints[name]),
        )


def replace_fields(
    config: Config, args: argparse.Namespace, path: str = PREFIX
) -> Config:
    """Return `config` with the flags in `args` that `add_config_flags` declared.

    All fields of a config are replaced at once, because its checks compare some.
    """
    hints = typing.get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        name, value = field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[name] = replace_fields(value, args, f"{path}{name}.")
        elif path + name in args:
            changes[name] = _convert(hints[name], getattr(args, path + name))
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def require_read(config: Any, given: Mapping[str, str]) -> None:
    """Refuse a flag that the other settings leave without effect.

    A value that turns its field off, such as 0 or False, may stand beside any.

    Args:
        given: flags of the command line by `dest`, as they were written.

    Raises:
        ConfigError: the message names the setting that reads the flag.
    """
    for dest, flag in given.items():
        *parents, name = dest.removeprefix(PREFIX).split(".")
        owner = functools.reduce(getattr, parents, config)
        readers: dict[str, str] = getattr(owner, "unread_fields", dict)()
        if name == "epochs" and f"{PREFIX}loop.steps" in given:
            continue  # both are there to see, and the help says which wins
        if name in readers and getattr(owner, name):
            raise ConfigError(
                f"`{flag}` goes with {readers[name]} and does nothing with these "
                "settings: leave it out."
            )


def parse_value(text: str) -> Any:
    """Return the number, truth value or None that `text` spells, else `text`."""
    try:
        return json.loads(JSON_LITERALS.get(text, text))
    except ValueError:
        return text


def _settings(hint: Any) -> dict[str, Any]:
    """Return what argparse needs to know to read a value of type `hint`."""
    arguments = typing.get_args(hint)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if hint in (int, float, str):
        return {"type": hint, "metavar": hint.__name__.upper()}
    origin = typing.get_origin(hint)
    if origin is Literal:
        return {"choices": arguments}
    if origin is tuple:
        first, last = arguments
        count = argparse.ZERO_OR_MORE if last is Ellipsis else len(arguments)
        if first == float | str:
            return {"nargs": count, "type": _number_or_text, "metavar": "FACTOR"}
        return {"nargs": count, "type": first, "metavar": first.__name__.upper()}
    if origin is dict:
        return {"nargs": argparse.ZERO_OR_MORE, "metavar": "FIELD VALUE"}
    if origin in (typing.Union, types.UnionType):
        inner = next(a for a in arguments if typing.get_origin(a) is tuple)
        nargs = argparse.ZERO_OR_MORE if type(None) in arguments else "+"
        return {**_settings(inner), "nargs": nargs, "type": _or_none(inner)}
    raise TypeError(f"No flag can set a field of type {hint}.")


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _or_none(hint: Any) -> Any:
    item = typing.get_args(hint)[0]
    item = _number_or_text if item == float | str else item

    def read(text: str) -> Any:
        return None if text == "None" else item(text)

    read.__name__ = item.__name__
    return read


def _convert(hint: Any, value: Any) -> Any:
    """Return the words of a flag, already of their type, as the field holds them."""
    if typing.get_origin(hint) is dict:
        return dict(zip(value[::2], map(parse_value, value[1::2]), strict=True))
    if not isinstance(value, list):
        return value
    if value == [None] or (len(value) == 1 and int in typing.get_args(hint)):
        return value[0]
    return tuple(value)


def _format_value(value: Any) -> str:
    if value in (None, "", (), {}):
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items())
    return str(value)


@functools.cache
def field_docs(owner: type) -> dict[str, str]:
    """Return the docstring under each field of `owner` and the classes it extends."""
    docs: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for line, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[line.target.id] = " ".join(str(after.value.value).split())
    return docs
