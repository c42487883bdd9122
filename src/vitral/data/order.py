"""Natural order of names: 2 before 10."""

import re


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key under which "class 2" comes before "class 10"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
