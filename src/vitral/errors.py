"""Errors that vitral raises for a user's mistake, each with its exit code.

A message gives the cause, the place, what was expected and what to do. The command
line prints it without a traceback and exits with `exit_code`; see docs/cli.md.
"""


class VitralError(Exception):
    """Base class of user-facing errors."""

    exit_code = 1


class ConfigError(VitralError, ValueError):
    """A setting, a name or an output folder cannot be used (exit 2)."""

    exit_code = 2


class DataError(VitralError, ValueError):
    """The data set cannot be used (exit 3)."""

    exit_code = 3


class ImageError(DataError):
    """One image file cannot be decoded; the message is the reason, without the path."""


class WeightsError(VitralError, ValueError):
    """Weights or a checkpoint are missing, corrupt or refused (exit 4)."""

    exit_code = 4


class DivergedError(VitralError, ArithmeticError):
    """Training produced a number that is not finite (exit 5)."""

    exit_code = 5


class GateError(VitralError):
    """A result stayed below its gate (exit 6)."""

    exit_code = 6


class MissingExtraError(VitralError, ImportError):
    """An optional dependency or a device is missing (exit 7)."""

    exit_code = 7


class ServerError(VitralError):
    """The server could not start (exit 8)."""

    exit_code = 8


class InterruptedRun(VitralError):
    """A signal stopped the run after a clean save (exit 130 or 143)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
