"""Natural order of names: 2 before 10."""

import re
import unicodedata


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Return a sort key under which "class 2" comes before "class 10"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [_number_key(p) if i % 2 else p for i, p in enumerate(parts)], name


def _number_key(digits: str) -> tuple[int, str]:
    """Return a key that orders as the number; `int` takes 4,300 digits at most."""
    # "٣" is a digit too, with the value of "3".
    value = "".join(str(unicodedata.digit(digit)) for digit in digits).lstrip("0")
    return len(value), value
