"""Clips: frames by index with their times, and the spans of clips in ids."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitral.data.images import DecodedImage, one_line
from vitral.data.video.frame_sampling import duration, frame_at
from vitral.errors import ImageError

STRIP_FRAMES = 8
"""Frames of the filmstrip that shows a clip in audits and reports."""


class FrameSource(ABC):
    """Access to the frames of one clip."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        """Return RGB frames of equal size, or raise ImageError."""

    def verify(self) -> None:  # noqa: B027 # most need nothing
        """Check every frame as far as that is cheap, or raise ImageError."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip: the time stamps of its frames, and access to frames by index."""

    times: Float[np.ndarray, "shown"]
    """Start of each frame in seconds, increasing, at least one."""
    source: FrameSource
    first: int = 0
    """Index in the source of the clip's first frame."""
    notes: tuple[str, ...] = ()
    timed: bool = True
    """False: the source has no time stamps, and a frame rate is assumed."""

    def __len__(self) -> int:
        return len(self.times)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[Image.Image]:
        """Return RGB frames by index, in this order; repeats are decoded once.

        Raises:
            ImageError: a frame cannot be decoded, or frames differ in size.
        """
        try:
            return self.source.read([self.first + int(index) for index in indices])
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"decoding failed: {one_line(error)}") from error

    def filmstrip(self) -> DecodedImage:
        """Return eight frames evenly spaced over the clip, side by side.

        Raises:
            ImageError: one of them cannot be decoded.
        """
        self.source.verify()
        count = min(STRIP_FRAMES, len(self))
        indices = [(2 * i + 1) * len(self) // (2 * count) for i in range(count)]
        return DecodedImage(
            image=side_by_side(self.read(indices)), notes=self.notes, frames=count
        )

    def trim(self, start: float, end: float) -> "Clip":
        """Cut to the frames shown from `start` to before `end`, in seconds."""
        times = self.times - self.times[0]
        total = duration(times)
        low = int(frame_at(times, np.array([start]))[0])
        high = int(np.searchsorted(times, end - 1e-4))
        if start >= total or high <= low:
            raise ImageError(
                f"no frame lies between {start:g} and {end:g} s: the clip ends at "
                f"{total:.3f} s"
            )
        return replace(self, times=self.times[low:high], first=self.first + low)


def side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    """Join frames of equal size from left to right in one image."""
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for i, frame in enumerate(frames):
        strip.paste(frame, (i * width, 0))
    return strip


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
