"""Clips: a video file, an .npz of frames, or a folder of frames, read frame by frame.

All three give the same frames at the same indices. frame_sampling.py chooses indices
from time stamps before anything is decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitral.data.frame_sampling import duration, frame_at
from vitral.data.images import DecodedImage, one_line
from vitral.data.video.decoder_client import DEFAULT_TIMEOUT
from vitral.data.video.frames import FrameSource, frames_from_array, open_frames
from vitral.errors import ImageError

STRIP_FRAMES = 8
"""Frames of the filmstrip that shows a clip in audits and reports."""


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


def open_clip(
    path: Path,
    span: tuple[float, float] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Clip:
    """Open a video file, an .npz or a frame folder; decode no more than needed.

    Args:
        span: (start, end) in seconds after the first frame, end exclusive. None: the
            full clip.
        timeout: seconds that decoding may take per request for frames.

    Raises:
        ImageError: it has no frame, or none within `span`; the message is the reason
            in one line, without the path.
        MissingExtraError: it is a video file and PyAV is not installed.
    """
    frames = open_frames(path, timeout)
    clip = Clip(
        times=frames.times, source=frames.source, notes=frames.notes, timed=frames.timed
    )
    if span is None:
        return clip
    if not frames.timed:
        raise ImageError(
            "start and end need time stamps, which a folder of frames and an .npz "
            "without fps or times do not have"
        )
    return _trim(clip, *span)


def clip_from_array(frames: np.ndarray) -> Clip:
    """Make a clip of an array, uint8 [frames, height, width, 3].

    Raises:
        ImageError: the array has another type or shape, or is empty.
    """
    timed = frames_from_array(frames)
    return Clip(times=timed.times, source=timed.source, timed=timed.timed)


def side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    """Join frames of equal size from left to right in one image."""
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for i, frame in enumerate(frames):
        strip.paste(frame, (i * width, 0))
    return strip


def _trim(clip: Clip, start: float, end: float) -> Clip:
    """Cut the clip to the frames shown from `start` to before `end`, in seconds."""
    times = clip.times - clip.times[0]
    total = duration(times)
    low = int(frame_at(times, np.array([start]))[0])
    high = int(np.searchsorted(times, end - 1e-4))
    if start >= total or high <= low:
        raise ImageError(
            f"no frame lies between {start:g} and {end:g} s: the clip ends at "
            f"{total:.3f} s"
        )
    return replace(clip, times=clip.times[low:high], first=clip.first + low)
