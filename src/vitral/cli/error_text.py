"""Errors of the library as the command line says them: `max_bad` is `--max-bad`."""

import importlib
import re
import sys
from collections.abc import Collection

_SETTING = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")


def name_flags(text: str, flags: Collection[str]) -> str:
    """Return a message with flags in place of the parameters that have one.

    `max_bad` becomes `--max-bad`, `mixup=0` becomes `--mixup 0`, and `resume=True`
    becomes `--resume`. Other words in backticks stay.
    """

    def replace(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if f"--{name}" not in flags:
            return found[0]
        if value == "False" and f"--no-{name}" in flags:
            return f"`--no-{name}`"
        if value in (None, "True"):
            return f"`--{name}`"
        return f"`--{name} {value.strip(chr(34))}`"

    return _SETTING.sub(replace, text)


def flags_of(verb: str) -> set[str]:
    """Return the flags of a verb; those of a config once it has been read."""
    module = importlib.import_module(f"vitral.cli.verbs.{verb.replace('-', '_')}")
    flags = (
        set(module.make_parser().flags()) if hasattr(module, "make_parser") else set()
    )
    config = sys.modules.get("vitral.cli.train_config")
    return flags | set(config.config_flags()) if config is not None else flags
