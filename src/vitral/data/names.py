"""Names as keys: one Unicode form, and several class names in one field of a table."""

import re
import unicodedata
from collections.abc import Iterable

_ESCAPED = re.compile(r"\\([\\;])")


_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escape_cell(text: str) -> str:
    """Put `'` before a text that a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_cell(text: str) -> str:
    """Invert `escape_cell`."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text


def canonical_name(name: str) -> str:
    """Return a name in Unicode's form NFC, under which two names are one class."""
    return unicodedata.normalize("NFC", name)


def canonical_class(name: str) -> str:
    """Return the name of a class: in form NFC, without blanks around it."""
    return canonical_name(name.strip())


def is_storable(name: str) -> bool:
    """Return whether a name has a form in UTF-8, as half a surrogate pair has not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def join_names(names: Iterable[str]) -> str:
    r"""Join class names by ";"; a ";" in a name is written "\;"."""
    return ";".join(_escape(name) for name in names)


def split_names(text: str) -> list[str]:
    r"""Return the class names that `join_names` joined; "\;" is a ";" in a name."""
    names, start, place = [], 0, 0
    while place < len(text):
        if text[place] == "\\" and text[place + 1 : place + 2] in ("\\", ";"):
            place += 2
            continue
        if text[place] == ";":
            names.append(text[start:place])
            start = place + 1
        place += 1
    return [_ESCAPED.sub(r"\1", name) for name in (*names, text[start:])]


def _escape(name: str) -> str:
    # A backslash alone stays as it is, so that tables without a ";" read as before.
    return re.sub(r"\\(?=[\\;]|$)|;", lambda match: "\\" + match[0], name)
