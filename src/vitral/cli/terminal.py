"""Make text from files harmless for a terminal (CWE-150)."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that reverse the direction."""


def escape_controls(text: str) -> str:
    r"""Return text with its control characters written out, as in `\x1b[2J`.

    A name in a weights file or a data set of a stranger could else clear the screen,
    or forge a line.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
