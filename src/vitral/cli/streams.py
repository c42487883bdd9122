"""Standard streams that are closed, full or broken."""

import contextlib
import os
import sys


def open_closed_streams() -> None:
    """Open the null device where a standard stream is closed.

    The next file that is opened would else get its number, and a library that writes
    to stderr would write into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def complain(text: str) -> None:
    """Print to stderr; one that cannot be written changes no exit code."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def is_output_full() -> bool:
    """Return whether printed text cannot be written; prints an empty line."""
    try:
        # A failed flush may have dropped what failed.
        print(flush=True)
    except OSError:
        return True
    return False


def discard_output() -> None:
    """Send what is still buffered, and all that follows, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
