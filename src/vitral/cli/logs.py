"""log.txt of a run: what was printed, and the traceback of anything unexpected."""

import datetime
import os
import sys
from pathlib import Path

_LOG_FILE: list[Path] = []


def set_log_folder(folder: Path) -> None:
    """From now on, write to log.txt in `folder`; the folder must exist."""
    _LOG_FILE[:] = [folder / "log.txt"]


def log_file() -> Path | None:
    """The log of this command; None before a run folder is known."""
    return _LOG_FILE[0] if _LOG_FILE else None


def say(text: str) -> None:
    """Print `text`, and keep it in the log with the time.

    A closed output (`vitral train ... | head -1`) must not end hours of training.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    file = log_file()
    if file is not None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        append_text(file, f"{now} {text}\n")


def append_text(file: Path, text: str) -> bool:
    """Add to the log; False where it cannot be written.

    A full disk ends a run where it saves, with a sentence that says what to do.
    """
    try:
        with file.open("a", encoding="utf-8") as log:
            log.write(text)
    except OSError:
        return False
    return True
