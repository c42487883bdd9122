"""Choice of a media type by the header Accept (RFC 9110, 12.5.1)."""

from collections.abc import Sequence
from typing import NamedTuple


class _Range(NamedTuple):
    kind: str
    """Before the slash; `*` for any."""
    subtype: str
    quality: float

    def specificity(self, media_type: str) -> int:
        """Return how closely a media type is named; 0 if it is not."""
        kind, _, subtype = media_type.partition("/")
        if (self.kind, self.subtype) == (kind, subtype):
            return 3
        if self.subtype != "*":
            return 0
        return {kind: 2, "*": 1}.get(self.kind, 0)


def choose_media_type(accept: str, offered: Sequence[str]) -> str:
    """Return the media type that a client likes most; empty if it takes none.

    Args:
        accept: value of the header; everything is taken where it names nothing.
        offered: media types, that of an indifferent client first.
    """
    ranges = [found for text in accept.split(",") if (found := _parse(text))]
    if not ranges:
        return offered[0]
    best, best_rank = "", (0.0, 0)
    for media_type in offered:
        # The closest range decides; the client's order does not count.
        closeness, quality = max(
            (item.specificity(media_type), item.quality) for item in ranges
        )
        if closeness and quality and (quality, closeness) > best_rank:
            best, best_rank = media_type, (quality, closeness)
    return best


def _parse(text: str) -> _Range | None:
    """Return one range of the header; None for what is none."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    kind, slash, subtype = name.partition("/")
    if not (kind and slash and subtype):
        return None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return _Range(kind, subtype, _parse_quality(value))
    return _Range(kind, subtype, 1.0)


def _parse_quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0
