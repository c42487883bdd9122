"""Count the scans of a JPEG before it is decoded.

Each scan of a progressive JPEG goes over all its pixels, and costs as little as 44
bytes: 176 kB of them take 44 seconds. A file of a camera or a program has about 10.
"""

import re
from collections.abc import Mapping
from typing import Any

from vitral.data.images.deep_files import as_tuple
from vitral.errors import ImageError

MAX_SCANS = 100
"""Most scans of a JPEG, or of a strip or tile of a TIFF that holds JPEGs."""
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length: TEM, restarts and the start."""
_END, _SCAN = 0xD9, 0xDA
_JPEG_IN_TIFF = (6, 7)
_COMPRESSION, _OFFSETS, _COUNTS = 259, (273, 324), (279, 325)
"""Tags of a TIFF; offsets and counts of strips, else of tiles."""


def refuse_scans(content: bytes) -> None:
    """Refuse a JPEG of more than MAX_SCANS scans.

    Raises:
        ImageError: it has more.
    """
    # Counting bytes takes microseconds, and gives at least the number of scans.
    if content[:2] != b"\xff\xd8" or content.count(b"\xff\xda") <= MAX_SCANS:
        return
    if count_scans(content) > MAX_SCANS:
        raise ImageError(
            f"the JPEG has more than {MAX_SCANS} scans, each of which goes over all "
            "its pixels: write it again with a usual program"
        )


def refuse_scans_in_tiff(content: bytes, tags: Mapping[int, Any]) -> None:
    """Refuse a TIFF of JPEGs with more than MAX_SCANS scans; see `refuse_scans`."""
    if tags.get(_COMPRESSION) not in _JPEG_IN_TIFF:
        return
    for offsets, counts in zip(_OFFSETS, _COUNTS, strict=True):
        parts = zip(as_tuple(tags.get(offsets)), as_tuple(tags.get(counts)))  # noqa: B905  # a broken file has too few
        for start, count in parts:
            refuse_scans(content[start : start + count])


def count_scans(content: bytes, limit: int = MAX_SCANS + 1) -> int:
    """Count the scans of a JPEG, those of pictures inside its segments not.

    Args:
        limit: number at which counting stops.
    """
    scans = position = 0
    while scans < limit and (found := _MARKER.search(content, position)):
        marker, position = found[1][0], found.end()
        if marker == _END:
            break
        if marker in _ALONE:
            continue
        scans += marker == _SCAN
        # Also of a scan: its header is followed by data, up to the next marker.
        position += int.from_bytes(content[position : position + 2], "big")
    return scans
