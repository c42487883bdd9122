"""argparse, with the nearest flag in the error for an unknown one."""

import argparse
import difflib
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and `_` for `-` in flags."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            prog=f"vitral {verb}", description=description, allow_abbrev=False
        )

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse `argv`; an unknown flag names the nearest and exits with 2."""
        plain = [
            word.replace("_", "-")
            if word.startswith("--") and "=" not in word
            else word
            for word in argv
        ]
        known, unknown = self.parse_known_args(plain)
        if unknown:
            flags = [flag for flag in self._option_string_actions if flag[:2] == "--"]
            near = difflib.get_close_matches(unknown[0], flags, n=2, cutoff=0.4)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            self.error(f"unknown argument {unknown[0]}.{hint}")
        return known

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} `{self.prog} --help` lists all.\n")


def _kebab(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name[:2] == "--" else word
