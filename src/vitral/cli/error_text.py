"""Errors and log lines of the library with flags: `max_bad` is `--max-bad`."""

import importlib
import re
import sys

from vitral.cli import VERBS

CONFIG_VERBS = ("train", "self-train", "verify-resume")
"""Verbs that take every field of a training's settings."""
_SETTING = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")


def name_flags(text: str, verb: str) -> str:
    """Return a message with flags in place of the parameters that have one.

    `max_bad` becomes `--max-bad`, `mixup=0` becomes `--mixup 0`, and `resume=True`
    becomes `--resume`. A parameter with a value may be one of another verb. Other words
    in backticks stay.
    """
    if not _SETTING.search(text):
        return text
    own = flags_of(verb)
    others = set().union(*map(flags_of, VERBS))

    def replace(found: re.Match[str]) -> str:
        flag, value = "--" + found[1].replace("_", "-"), found[2]
        if flag not in (own if value is None else own | others):
            return found[0]
        if value in (None, "True"):
            return f"`{flag}`"
        if value == "False":
            no = flag.replace("--", "--no-", 1)
            return f"`{no}`" if no in own | others else f"no `{flag}`"
        if value.startswith("("):
            value = value.strip("()").replace(",", "")
        return f"`{flag} {value}`"

    return _SETTING.sub(replace, text)


def flags_of(verb: str) -> set[str]:
    """Return the flags of a verb, with those of a config where it has one."""
    module = importlib.import_module(f"vitral.cli.verbs.{verb.replace('-', '_')}")
    flags: set[str] = set()
    if hasattr(module, "make_parser"):
        flags |= set(module.make_parser().flags())
    # What has not imported torch has said nothing of a config.
    if verb in CONFIG_VERBS and "torch" in sys.modules:
        from vitral.cli.train_config import config_flags

        flags |= set(config_flags())
    return flags
