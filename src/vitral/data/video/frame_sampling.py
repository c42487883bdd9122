"""Sample the frames of a clip from its time stamps, before any is decoded.

The sample is a pure function of time stamps, specification and, in training, a key.
`dense` with 30 frames per second and `segments` follow the official TimeSformer code
(arXiv 2102.05095) for Kinetics and Something-Something.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from vitral.validation import Checks, check_fields

SamplingKind = Literal["uniform", "segments", "dense"]
MAX_FRAMES = 4096
"""Most frames of a view, and most views of a clip."""
_TIME_TOLERANCE = 1e-4  # seconds; stamps are rounded to the ticks of their container


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Choice of frames, and number of views of a clip that an evaluation averages."""

    frames: int = 8
    """Frames per view."""
    kind: SamplingKind = "uniform"
    """"uniform" takes one frame from each equal part of the time, "segments" one from
    each equal part of the frames, "dense" every `stride`-th from a random start. In
    evaluation it is the middle of the part, or the middle of the clip."""
    stride: float = 32.0
    """For "dense": steps from one frame to the next."""
    fps: float = 30.0
    """For "dense": steps per second; 0 counts the clip's frames."""
    clips: int = 1
    """Temporal views in evaluation, evenly spaced over the clip."""
    crops: int = 1
    """Spatial views in evaluation: 1, or 3 along the longer side."""
    first: Literal["middle", "start"] = "middle"
    """For "dense" in evaluation: "middle" centres the views in the clip, as in the
    paper; "start" starts at its first frame, as in the official code."""

    def __post_init__(self) -> None:
        check_fields(type(self), asdict(self), _CHECKS)

    def sample_training(
        self, times: Float[np.ndarray, "shown"], generator: np.random.Generator
    ) -> Int[np.ndarray, "frames"]:
        """Return the frame indices of one training view, sorted, possibly repeated.

        Args:
            times: start of each frame in seconds, increasing, at least one.
        """
        if self.kind == "dense":
            return self._sample_dense(times, float(generator.random()))
        offsets = generator.random(self.frames)
        if self.kind == "uniform":
            return self._sample_uniform(times, offsets)
        low, high = self._segment_bounds(len(times))
        return np.array(
            [generator.integers(a, b + 1) for a, b in zip(low, high, strict=True)]
        )

    def sample_evaluation(
        self, times: Float[np.ndarray, "shown"]
    ) -> Int[np.ndarray, "clips frames"]:
        """Return the frame indices of each view in evaluation, without randomness."""
        views = []
        for view in range(self.clips):
            middle = (2 * view + 1) / (2 * self.clips)
            if self.kind == "dense":
                start = view / self.clips if self.first == "start" else middle
                views.append(self._sample_dense(times, start))
            elif self.kind == "uniform":
                views.append(self._sample_uniform(times, np.full(self.frames, middle)))
            else:
                low, high = self._segment_bounds(len(times))
                views.append(low + np.floor((high - low) * middle).astype(np.int64))
        return np.stack(views)

    def _sample_uniform(
        self, times: Float[np.ndarray, "shown"], offsets: Float[np.ndarray, "frames"]
    ) -> Int[np.ndarray, "frames"]:
        """Return the frame shown at an offset 0..1 of each equal part of the time."""
        seconds = (np.arange(self.frames) + offsets) / self.frames * duration(times)
        return frame_at(times, times[0] + seconds)

    def _segment_bounds(
        self, num_frames: int
    ) -> tuple[Int[np.ndarray, "frames"], Int[np.ndarray, "frames"]]:
        """Return first and last frame of each part, rounded as in the official code."""
        edges = np.round(
            np.arange(self.frames + 1) * ((num_frames - 1) / self.frames)
        ).astype(np.int64)
        return edges[:-1], edges[1:]

    def _sample_dense(
        self, times: Float[np.ndarray, "shown"], offset: float
    ) -> Int[np.ndarray, "frames"]:
        """Return frames at equal steps; after the end the last frame repeats."""
        num_steps = len(times)
        if self.fps:
            num_steps = max(1, round(duration(times) * self.fps))
        span = self.stride * self.frames
        start = max(0.0, num_steps - span) * offset
        steps = np.floor(np.linspace(start, start + span - 1, self.frames))
        steps = np.clip(steps, 0, num_steps - 1)
        if not self.fps:
            return steps.astype(np.int64)
        return frame_at(times, times[0] + steps / self.fps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` reads them back."""
        return asdict(self) | {"stride": float(self.stride), "fps": float(self.fps)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampling":
        """Read what `to_dict` wrote; absent fields take their defaults.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        check_fields(cls, values, _CHECKS)
        plain: dict[str, Any] = {
            name: float(value) if name in ("stride", "fps") else value
            for name, value in values.items()
        }
        return cls(**plain)


def duration(times: Float[np.ndarray, "shown"]) -> float:
    """Return the seconds from the first frame to the end of the last.

    The last frame is taken to last as long as the median of the others.
    """
    if len(times) < 2:
        return 1 / 30
    return float(times[-1] - times[0] + np.median(np.diff(times)))


def frame_at(
    times: Float[np.ndarray, "shown"], seconds: Float[np.ndarray, "..."]
) -> Int[np.ndarray, "..."]:
    """Return the index of the frame that is shown at each of `seconds`."""
    indices = np.searchsorted(times, seconds + _TIME_TOLERANCE, side="right") - 1
    return np.clip(indices, 0, len(times) - 1)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


_CHECKS: Checks = {
    "frames": (lambda n: _is_int(n) and 1 <= n <= MAX_FRAMES, "a number of at least 1"),
    "kind": (
        lambda name: name in ("uniform", "segments", "dense"),
        "'uniform', 'segments' or 'dense'",
    ),
    "stride": (lambda n: _is_number(n) and 0 < n < 1e9, "a number above 0"),
    "fps": (lambda n: _is_number(n) and 0 <= n < 1e9, "0 or a number above 0"),
    "clips": (lambda n: _is_int(n) and 1 <= n <= MAX_FRAMES, "a number of at least 1"),
    "crops": (lambda n: _is_int(n) and n in (1, 3), "1 or 3"),
    "first": (lambda name: name in ("middle", "start"), "'middle' or 'start'"),
}
