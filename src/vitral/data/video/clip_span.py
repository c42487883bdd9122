"""Spans of clips: parse start and end, and write them into ids."""

import math
from pathlib import Path
from typing import Any

from vitral.data.images import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from vitral.data.video.frames import CLIP_EXTENSIONS


def is_clip_path(path: Path) -> bool:
    """Return whether a path is a clip: a video file, an .npz, a folder of frames."""
    return path.is_dir() or path.suffix.lower() in CLIP_EXTENSIONS


def is_image_path(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.is_dir()


def parse_span(start: Any, end: Any) -> tuple[float, float] | None:
    """Parse start and end in seconds; None if both are empty.

    Raises:
        ValueError: they are not 0 <= start < end; the message ends a sentence.
    """
    empty = (None, "")
    if start in empty and end in empty:
        return None
    try:
        first = 0.0 if start in empty else float(start)
        last = math.inf if end in empty else float(end)
    except (TypeError, ValueError):
        first = last = math.nan
    if not 0 <= first < last or math.isinf(first):
        raise ValueError(
            f"expected seconds with 0 <= start < end, got start {start!r} and end "
            f"{end!r}; correct them"
        )
    return first, last


def clip_id(path: str, span: tuple[float, float] | None) -> str:
    """Return the id of a clip: its path, and "#t=FIRST,LAST" for a part of a file."""
    if span is None:
        return path
    last = "" if math.isinf(span[1]) else f"{span[1]:.12g}"
    return f"{path}#t={span[0]:.12g},{last}"
