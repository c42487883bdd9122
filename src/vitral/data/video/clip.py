"""Clips: a video file, an .npz of frames, or a folder of frames, read frame by frame.

All three give the same frames under the same numbers. Which numbers a model sees is
decided in sampling.py from the time stamps, before anything here decodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitral.data.frame_sampling import duration, frame_at
from vitral.data.images import DecodedImage
from vitral.data.video.decoder_client import DEFAULT_TIMEOUT
from vitral.data.video.frames import FrameSource, frames_from_array, open_frames
from vitral.errors import ImageError

STRIP_FRAMES = 8
"""Frames of the picture that stands for a clip in audits and reports."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip that can be read: its time stamps, and its frames by number."""

    times: Float[np.ndarray, "shown"]
    """Seconds at which its frames begin, rising, at least one."""
    source: FrameSource
    first: int = 0
    """Number within the source of the clip's first frame."""
    notes: tuple[str, ...] = ()
    timed: bool = True
    """Whether the source keeps time; else a frame rate is assumed."""

    def __len__(self) -> int:
        return len(self.times)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[Image.Image]:
        """The RGB frames of these numbers, in this order; repeats are decoded once.

        Raises:
            ImageError: a frame cannot be decoded, or frames differ in size.
        """
        try:
            return self.source.read([self.first + int(number) for number in indices])
        except ImageError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"decoding failed: {reason}") from error

    def filmstrip(self) -> DecodedImage:
        """Eight frames evenly over the clip, side by side: what stands for it.

        Raises:
            ImageError: one of them cannot be decoded.
        """
        self.source.verify()
        number = min(STRIP_FRAMES, len(self))
        numbers = [(2 * i + 1) * len(self) // (2 * number) for i in range(number)]
        return DecodedImage(
            image=side_by_side(self.read(numbers)), notes=self.notes, frames=number
        )


def open_clip(
    path: Path,
    span: tuple[float, float] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Clip:
    """Open a video file, an .npz or a frame folder; no more than needed is decoded.

    Args:
        span: first second and the one behind the last, counted from the first frame;
            None for all of it.
        timeout: seconds that decoding may take, each time frames are asked for.

    Raises:
        ImageError: it has no frame, or none within `span`; the message is the reason
            in one line, without the path.
        MissingExtraError: it is a video file and PyAV is not installed.
    """
    found = open_frames(path, timeout)
    clip = Clip(
        times=found.times, source=found.source, notes=found.notes, timed=found.timed
    )
    if span is None:
        return clip
    if not found.timed:
        raise ImageError(
            "start and end need time stamps, which a folder of frames and an .npz "
            "without fps or times do not have"
        )
    return _trim(clip, *span)


def clip_from_array(frames: np.ndarray) -> Clip:
    """A clip that is in memory: uint8 [frames, height, width, 3].

    Raises:
        ImageError: the array is of another type or shape, or empty.
    """
    found = frames_from_array(frames)
    return Clip(times=found.times, source=found.source, timed=found.timed)


def side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames of equal size from left to right in one image."""
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * width, 0))
    return strip


def _trim(clip: Clip, start: float, end: float) -> Clip:
    """The frames that are on the screen from `start` to before `end`."""
    times = clip.times - clip.times[0]
    whole = duration(times)
    low = int(frame_at(times, np.array([start]))[0])
    high = int(np.searchsorted(times, end - 1e-4))
    if start >= whole or high <= low:
        raise ImageError(
            f"no frame lies between {start:g} and {end:g} s: the clip ends at "
            f"{whole:.3f} s"
        )
    return replace(clip, times=clip.times[low:high], first=clip.first + low)
