"""Words of a command line before argparse reads them: one spelling, positionals first.

argparse alone gives a word after `--image-size 32` to the flag, never to DATA, and
knows no `_` in flags.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ASSIGNMENT = "FIELD=VALUE"
"""Placeholder of a flag whose words have an equals sign."""
NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
SHORT_FLAG = re.compile(r"(-[a-z])=?(\d+)")
"""A short flag with its number attached: `-b8` or `-b=8`."""


@dataclass(frozen=True, slots=True)
class SplitArgv:
    """One command line, sorted."""

    positionals: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    """Flags of the verb, with their values."""
    rest: list[str] = field(default_factory=list)
    """Flags of another parser, with their values."""
    unknown: list[str] = field(default_factory=list)
    """Flags of neither."""


def normalize(argv: Sequence[str]) -> list[str]:
    """Return `argv` in one spelling: `--kebab-case`, and `-b 8` for `-b8` or `-b=8`."""
    tokens: list[str] = []
    for index, word in enumerate(argv):
        if word == "--":
            return [*tokens, *argv[index:]]
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            tokens.append(name.replace("_", "-") + equals + value)
        elif short := SHORT_FLAG.fullmatch(word):
            tokens += short.groups()
        else:
            tokens.append(word)
    return tokens


def split(
    argv: Sequence[str],
    own: Mapping[str, argparse.Action],
    others: Mapping[str, argparse.Action],
    slots: int,
) -> SplitArgv:
    """Sort normalized words into positionals and flags.

    A flag takes the words that it can read. One that it cannot read is a positional
    while fewer than `slots` of them were seen, as `photos` in `--image-size 32 photos`.

    Args:
        own: the verb's flags, by each of their names.
        others: flags that another parser reads later.
        slots: most positionals of the verb.
    """
    result = SplitArgv()
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "--":
            result.positionals.extend(argv[index:])
            break
        if not is_flag(word):
            result.positionals.append(word)
            continue
        name, equals, _ = word.partition("=")
        action = own.get(name) or others.get(name)
        if action is None:
            result.unknown.append(name)
            continue
        if action.nargs == 0 and (equals or argv[index : index + 1]):
            word, used = _read_switch(action, word, argv[index : index + 1])
            index += used
            if not word:
                continue
        values: list[str] = []
        most = 0 if equals else _most_values(action)
        while index < len(argv) and len(values) < most and not is_flag(argv[index]):
            value = argv[index]
            free = len(result.positionals) < slots
            if values and free and not _can_read(action, value):
                break
            values.append(value)
            index += 1
        if len(values) == 1 and values[0].startswith("-"):
            word, values = f"{word}={values[0]}", []  # argparse refuses `--x -1e-3`
        (result.flags if name in own else result.rest).extend([word, *values])
    return result


def _read_switch(
    action: argparse.Action, word: str, following: Sequence[str]
) -> tuple[str, int]:
    """Read a switch whose value is spelled out, such as `--dihedral True`.

    Returns:
        the flag that means the same, empty where it changes nothing, and the number of
        words after it that were read.
    """
    name, equals, value = word.partition("=")
    if not equals:
        value = "".join(following)
    if value.lower() not in ("true", "false"):
        return word, 0
    used = 0 if equals else 1
    if value.lower() == "true":
        return name, used
    if not isinstance(action, argparse.BooleanOptionalAction):
        return "", used
    if name.startswith("--no-"):
        return f"--{name.removeprefix('--no-')}", used
    return f"--no-{name.removeprefix('--')}", used


def is_flag(word: str) -> bool:
    """Return whether `word` is a flag, and no negative number or lone dash."""
    return word.startswith("-") and word != "-" and not NUMBER.fullmatch(word)


def _most_values(action: argparse.Action) -> int:
    if action.nargs is None or action.nargs == argparse.OPTIONAL:
        return 1
    return action.nargs if isinstance(action.nargs, int) else sys.maxsize


def _can_read(action: argparse.Action, word: str) -> bool:
    if action.choices is not None:
        return word in action.choices
    if action.metavar == ASSIGNMENT:
        return "=" in word
    try:
        if callable(action.type):
            action.type(word)
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return True
