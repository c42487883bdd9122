"""The command-line parser of every verb: flags anywhere, `_` for `-`, two helps.

`--help` shows the flags that people use with three examples; `--help-all` shows all.
Neither imports torch or numpy, so a verb declares its flags without them.
"""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from vitral.cli import HELP_FLAGS
from vitral.cli.argv import is_flag, normalize, split
from vitral.errors import ConfigError
from vitral.validation import suggestion

WIDTH = 88
UNLIMITED = (argparse.ZERO_OR_MORE, argparse.ONE_OR_MORE)


class Formatter(argparse.HelpFormatter):
    """Help with short placeholders, and the default after the text."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return self._format_args(action, action.dest.upper())
        names = ", ".join(action.option_strings)
        if action.nargs == 0:
            return names
        return f"{names} {self._format_args(action, _placeholder(action))}"

    def _format_args(self, action: argparse.Action, default_metavar: Any) -> str:
        if isinstance(action.metavar, tuple):
            return super()._format_args(action, default_metavar)
        (name,) = self._metavar_formatter(action, default_metavar)(1)
        if action.nargs in UNLIMITED:
            return f"{name}..."
        return super()._format_args(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if (
            not action.option_strings
            or default is None
            or isinstance(default, bool)
            or default in ("", [], argparse.SUPPRESS)
            or "default" in text
        ):
            return text
        shown = default if isinstance(default, list | tuple) else [default]
        return f"{text} (default: {' '.join(map(str, shown))})"


class Parser(argparse.ArgumentParser):
    """The parser of one verb.

    Args:
        usage: the verb's words, as `RUN FILES...`.
        common: the flags of `--help`, in order; empty for all.
        examples: what follows the verb in three commands.
    """

    def __init__(
        self,
        verb: str,
        description: str,
        *,
        usage: str = "",
        common: str = "",
        examples: Sequence[str] = (),
    ) -> None:
        super().__init__(
            prog=f"vitral {verb}",
            usage=f"vitral {verb} {usage} [flags]".replace("  ", " "),
            description=description,
            allow_abbrev=False,
            add_help=False,
            formatter_class=Formatter,
        )
        self.common = common.split()
        self.examples = [f"{self.prog} {line}".rstrip() for line in examples]
        self.given: dict[str, str] = {}
        """Flags of the last command line: the name as it was given, by `dest`."""
        self._later: list[argparse.Action] = []
        self._modes: dict[str, tuple[str, ...]] = {}
        # `vitral.cli.main` reads it for every verb, before the verb is imported.
        self.add("--offline", False, "weights from this machine alone: no network")

    def add(
        self,
        names: str,
        value: Any,
        text: str,
        *,
        group: str = "",
        modes: str = "",
        **settings: Any,
    ) -> None:
        """Declare a flag or a positional by its default, which gives its type.

        Args:
            names: name, aliases and placeholder as in the help: `--batch-size -b N`.
            value: the default; False makes a switch, and a list takes one word or more.
                A type, also in a list, is no default: a positional is then required.
            text: its help.
            group: title of its part of `--help-all`.
            modes: those of the verb that read the flag; empty for all. See
                `require_read`.
        """
        parts = {part.title: part for part in self._action_groups} if group else {}
        part = parts.get(group) or self.add_argument_group(group) if group else self
        action = _add_argument(part, names, value, text, **settings)
        if modes:
            self._modes[action.dest] = tuple(modes.split())

    def require_read(self, flag: str, modes: str | Collection[str]) -> None:
        """Refuse a flag of the command line that the chosen modes do not read.

        Args:
            flag: the flag or words that choose a mode, such as `--protocol`; empty
                where modes are switches.
            modes: what was chosen, one or several.

        Raises:
            ConfigError: a flag was given that would do nothing.
        """
        chosen = [modes] if isinstance(modes, str) else list(modes)
        for dest, name in self.given.items():
            readers = self._modes.get(dest)
            if readers is None or set(readers) & set(chosen):
                continue
            others = f"with {' and '.join(chosen)}" if chosen else "alone"
            raise ConfigError(
                f"`{name}` goes with {_join_modes(flag, readers)} and does nothing "
                f"{others}: leave one of the two out."
            )

    def refuse_given(self, names: str, reason: str) -> None:
        """Refuse flags of the command line by their `dest`, between blanks.

        Raises:
            ConfigError: one of them was given; the message ends with the reason.
        """
        for dest in names.split():
            if dest in self.given:
                raise ConfigError(f"`{self.given[dest]}` {reason}")

    def modes(self) -> dict[str, tuple[str, ...]]:
        """Return the modes of each flag that not all of them read, by its name."""
        return {
            name: self._modes[action.dest]
            for name, action in self.flags().items()
            if action.dest in self._modes
        }

    def mention(self, names: str, value: Any, text: str) -> None:
        """Show a flag in `--help` that is declared only once torch is imported."""
        scratch = argparse.ArgumentParser(add_help=False)
        self._later.append(_add_argument(scratch, names, value, text))

    def flags(self) -> dict[str, argparse.Action]:
        """Return the declared flags by each of their names."""
        return dict(self._option_string_actions)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse `argv`; an unknown flag names the nearest and exits with 2."""
        if self.handle_help(argv):
            print(self.format_help_all())
            self.exit()
        return self.parse_known(argv, {})[0]

    def handle_help(self, argv: Sequence[str]) -> bool:
        """Print the short help and exit for `--help`; return whether to list all."""
        tokens = normalize(argv)
        tokens = tokens[: tokens.index("--")] if "--" in tokens else tokens
        if set(HELP_FLAGS) & set(tokens):
            print(self.format_help())
            self.exit()
        return "--help-all" in tokens

    def parse_known(
        self, argv: Sequence[str], others: Mapping[str, argparse.Action]
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse `argv`, and return with it the flags of `others`, not parsed.

        `--data X` stands for the positional DATA of a verb that has one.
        """
        tokens = [token for token in normalize(argv) if token != "--help-all"]
        positionals = self._get_positional_actions()
        data = next((action for action in positionals if action.dest == "data"), None)
        if data is not None and any(t.split("=")[0] == "--data" for t in tokens):
            positionals.remove(data)
            self._remove_action(data)
            self.add_argument("--data", help=data.help)
        many = any(action.nargs in UNLIMITED for action in positionals)
        slots = sys.maxsize if many else len(positionals)
        parts = split(tokens, self.flags(), others, slots)
        if parts.unknown:
            self._refuse(parts.unknown[0], [*self.flags(), *others])
        actions = self.flags()
        words = [word.partition("=")[0] for word in parts.flags if is_flag(word)]
        self.given = {actions[name].dest: name for name in words if name in actions}
        # A positional such as `-x.jpg` came after a `--` and needs one again.
        separator = ["--"] if parts.positionals else []
        args, unread = self.parse_known_args(
            [*parts.flags, *separator, *parts.positionals]
        )
        unread = [word for word in unread if word != "--"]
        if unread:
            self._refuse(unread[0], [*self.flags(), *others])
        return args, parts.rest

    def format_help(self) -> str:
        """Return the words, the common flags and the examples."""
        by_name = self.flags()
        for action in self._later:
            by_name |= dict.fromkeys(action.option_strings, action)
        formatter = self._start_help()
        formatter.start_section("flags")
        if self.common:
            formatter.add_arguments(by_name[name] for name in self.common)
        else:
            formatter.add_arguments(dict.fromkeys(by_name.values()))
        formatter.end_section()
        lines = [formatter.format_help(), "examples:"]
        lines += [f"  {example}" for example in self.examples]
        return "\n".join([*lines, "", f"`{self.prog} --help-all` lists every flag."])

    def format_help_all(self) -> str:
        """Return every flag with its default."""
        formatter = self._start_help()
        for group in self._action_groups:
            if group is self._positionals:
                continue
            formatter.start_section(
                "flags" if group is self._optionals else group.title
            )
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one sentence."""
        self.exit(2, f"{self.prog}: {message} `{self.prog} --help-all` lists all.\n")

    def _start_help(self) -> argparse.HelpFormatter:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [], [])
        formatter.add_text(self.description)
        formatter.start_section(None)
        formatter.add_arguments(self._get_positional_actions())
        formatter.end_section()
        return formatter

    def _refuse(self, word: str, flags: Sequence[str]) -> NoReturn:
        long = [flag for flag in flags if flag.startswith("--")]
        hint = suggestion(word, long, cutoff=0.4)
        self.error(f"unknown argument {word}.{hint}")


def _add_argument(
    part: argparse._ActionsContainer,
    names: str,
    value: Any,
    text: str,
    **settings: Any,
) -> argparse.Action:
    parts = names.split()
    flags = [part for part in parts if part.startswith("-")] or parts[:1]
    if placeholders := tuple(parts[len(flags) :]):
        settings["metavar"] = placeholders if placeholders[1:] else placeholders[0]
    several = isinstance(value, list)
    first = value[0] if several else value
    if value is False:
        settings["action"] = "store_true"
    elif isinstance(first, type):
        settings = {"type": first, "default": [] if several else None, **settings}
    else:
        settings = {"type": type(first), "default": value, **settings}
        if not flags[0].startswith("-"):
            settings["nargs"] = argparse.OPTIONAL
    if several:
        settings.setdefault("nargs", argparse.ONE_OR_MORE)
    return part.add_argument(*flags, help=text, **settings)


def _join_modes(flag: str, modes: Sequence[str]) -> str:
    """Return modes for a person: `--what attention`, or `--what` rollout or all."""
    if not flag:
        return " or ".join(f"`{mode}`" for mode in modes)
    if len(modes) == 1:
        return f"`{flag} {modes[0]}`"
    return f"`{flag}` {', '.join(modes[:-1])} or {modes[-1]}"


def _placeholder(action: argparse.Action) -> str:
    if action.type in (int, float):
        return "N" if action.type is int else "X"
    return action.dest.rpartition("_")[2].upper()
