"""Make text from files harmless for a terminal (CWE-150)."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that reverse the direction."""


def escape_controls(text: str) -> str:
    r"""Return text with its control characters written out, as in `\x1b[2J`.

    A name in a weights file or a data set of a stranger could else clear the screen,
    or forge a line.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


@contextlib.contextmanager
def protect_terminal() -> Iterator[None]:
    """Write out control characters of what is printed inside, if a person reads it.

    A pipe or a file gets the characters as they are.
    """
    if not sys.stdout.isatty():
        yield
        return
    with contextlib.redirect_stdout(cast(TextIO, _EscapedStream(sys.stdout))):
        yield


class _EscapedStream:
    """A text stream whose control characters are written out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escape_controls(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
