"""Start and upkeep of the processes that the fork server forks."""

import contextlib
import ctypes
import signal

_SET_DEATH_SIGNAL, _SET_NAME = 1, 15
"""PR_SET_PDEATHSIG and PR_SET_NAME of Linux's prctl."""


def set_up(name: str) -> None:
    """Name this process for `ps`, and have the system end it with its parent.

    One that computes would notice the end of the server half a minute later. Where the
    system knows neither, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        prctl = ctypes.CDLL(None).prctl
        prctl(_SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
        prctl(_SET_NAME, name.encode(), 0, 0, 0)


def trim() -> None:
    """Return freed memory to the system, if the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
