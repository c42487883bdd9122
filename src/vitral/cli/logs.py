"""The command's output: log lines to the terminal and to log.txt of the run."""

import datetime
import logging
from collections.abc import Callable
from pathlib import Path

from vitral.atomic_io import open_unlinked
from vitral.cli.streams import complain, discard_output
from vitral.cli.terminal import escape_controls
from vitral.errors import ConfigError

TRAINING = ("vitral.workflows.train",)
"""Loggers of one training: verbs that train many runs leave their lines out."""
_LOG_FILE: list[Path] = []
_VERB: list[str] = []


def set_log_folder(folder: Path) -> None:
    """Write to log.txt in `folder` from now on; the folder must exist."""
    file = folder / "log.txt"
    if file.is_symlink():
        raise ConfigError(
            f"{file} is a link, and a log must be a file of its own: writing would "
            "change the file that it names. Remove the link."
        )
    _LOG_FILE[:] = [file]


def log_file() -> Path | None:
    """Return the log of this command; None before a run folder is known."""
    return _LOG_FILE[0] if _LOG_FILE else None


def say(text: str) -> None:
    """Print `text`, and write it to log.txt with the time.

    A closed output (`vitral train ... | head -1`) must not end hours of training.
    """
    text = escape_controls(text)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()
    file = log_file()
    if file is not None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        append_text(file, f"{now} {text}\n")


def append_text(file: Path, text: str) -> bool:
    """Append to the log; return False where it cannot be written.

    A full disk ends a run where it saves, with a sentence that says what to do.
    """
    try:
        with open(file, "a", encoding="utf-8", opener=open_unlinked) as log:
            log.write(text)
    except OSError:
        return False
    return True


def warn(text: str) -> None:
    """Print `text` to stderr, where it does not mix with results."""
    complain(escape_controls(text))


class CommandHandler(logging.Handler):
    """Log handler of the command: messages of INFO and above to `write`.

    Loggers named in `without` are dropped.
    """

    def __init__(self, write: Callable[[str], None], without: tuple[str, ...]) -> None:
        super().__init__(logging.INFO)
        self.write = write
        self.without = without

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(self.without):
            self.write(_name_flags(record.getMessage()))


def set_verb(verb: str) -> None:
    """Name the flags of this verb in log lines, in place of parameters."""
    _VERB[:] = [verb]


def _name_flags(text: str) -> str:
    if not _VERB or "`" not in text:
        return text
    from vitral.cli.error_text import name_flags

    return name_flags(text, _VERB[0])


def install_handler(
    write: Callable[[str], None], *, without: tuple[str, ...] = ()
) -> None:
    """Send the log of vitral to `write`; replaces the handler of an earlier call."""
    logger = logging.getLogger("vitral")
    for handler in list(logger.handlers):
        if isinstance(handler, CommandHandler):
            logger.removeHandler(handler)
    logger.addHandler(CommandHandler(write, without))
    logger.setLevel(logging.INFO)
