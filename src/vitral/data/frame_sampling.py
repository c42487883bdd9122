"""Which frames of a clip a model sees, chosen before any is decoded.

A choice is a pure function of the clip's time stamps, the specification and, in
training, a key. `dense` with 30 frames per second and `segments` follow the official
TimeSformer code (arXiv 2102.05095) for Kinetics and Something-Something.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from vitral.errors import ConfigError

SamplingKind = Literal["uniform", "segments", "dense"]
_TIME_TOLERANCE = 1e-4  # seconds; stamps are rounded to the ticks of their container


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How frames are chosen, and how many views of a clip an evaluation averages."""

    frames: int = 8
    """Frames that the model sees at once."""
    kind: SamplingKind = "uniform"
    """"uniform" takes one frame from each equal part of the time, "segments" one from
    each equal part of the frames, "dense" every `stride`-th from a random start. In
    evaluation it is the middle of the part, or the middle of the clip."""
    stride: float = 32.0
    """Of "dense": steps from one frame to the next."""
    fps: float = 30.0
    """Of "dense": steps a second; 0 counts the clip's own frames."""
    clips: int = 1
    """Views of other frames in evaluation, evenly over the clip."""
    crops: int = 1
    """Views of other places in evaluation: 1, or 3 along the longer side."""
    first: Literal["middle", "start"] = "middle"
    """Of "dense" in evaluation: "middle" centres the views in the clip, as the paper
    says; "start" begins at its first frame, as the official code does."""

    def __post_init__(self) -> None:
        validate(asdict(self))

    def sample_training(
        self, times: Float[np.ndarray, "shown"], generator: np.random.Generator
    ) -> Int[np.ndarray, "frames"]:
        """Numbers of the frames of one training view, rising; repeats are possible.

        Args:
            times: seconds at which the clip's frames begin, rising, at least one.
        """
        if self.kind == "dense":
            return self._sample_dense(times, float(generator.random()))
        places = generator.random(self.frames)
        if self.kind == "uniform":
            return self._sample_uniform(times, places)
        low, high = self._segment_bounds(len(times))
        return np.array(
            [generator.integers(a, b + 1) for a, b in zip(low, high, strict=True)]
        )

    def sample_evaluation(
        self, times: Float[np.ndarray, "shown"]
    ) -> Int[np.ndarray, "clips frames"]:
        """Numbers of the frames of each view in evaluation; nothing is random."""
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
        """The frame that is on the screen at a place 0..1 of each equal part."""
        at = (np.arange(self.frames) + offsets) / self.frames * duration(times)
        return frame_at(times, times[0] + at)

    def _segment_bounds(
        self, num_frames: int
    ) -> tuple[Int[np.ndarray, "frames"], Int[np.ndarray, "frames"]]:
        """First and last frame of each part, as the official code rounds them."""
        edges = np.round(
            np.arange(self.frames + 1) * ((num_frames - 1) / self.frames)
        ).astype(np.int64)
        return edges[:-1], edges[1:]

    def _sample_dense(
        self, times: Float[np.ndarray, "shown"], offset: float
    ) -> Int[np.ndarray, "frames"]:
        """Frames at equal steps; behind the clip's end its last frame repeats."""
        number = len(times)
        if self.fps:
            number = max(1, round(duration(times) * self.fps))
        span = self.stride * self.frames
        start = max(0.0, number - span) * offset
        steps = np.floor(np.linspace(start, start + span - 1, self.frames))
        steps = np.clip(steps, 0, number - 1)
        if not self.fps:
            return steps.astype(np.int64)
        return frame_at(times, times[0] + steps / self.fps)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return asdict(self) | {"stride": float(self.stride), "fps": float(self.fps)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampling":
        """Read what `to_dict` wrote; absent fields take their defaults.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(
                f"Sampling has no field {', '.join(map(repr, unknown))}; expected "
                f"some of {', '.join(known)}. Correct or remove the key."
            )
        validate(values)
        plain: dict[str, Any] = {
            name: float(value) if name in ("stride", "fps") else value
            for name, value in values.items()
        }
        return cls(**plain)


def duration(times: Float[np.ndarray, "shown"]) -> float:
    """Seconds from the first frame to the end of the last, which has no successor and
    is taken to last as long as the middle one of all others."""
    if len(times) < 2:
        return 1 / 30
    return float(times[-1] - times[0] + np.median(np.diff(times)))


def frame_at(
    times: Float[np.ndarray, "shown"], seconds: Float[np.ndarray, "..."]
) -> Int[np.ndarray, "..."]:
    """The number of the frame that is on the screen at each moment."""
    places = np.searchsorted(times, seconds + _TIME_TOLERANCE, side="right") - 1
    return np.clip(places, 0, len(times) - 1)


def validate(values: dict[str, Any]) -> None:
    """Raise ConfigError for the first field that is not allowed."""
    for name, value in values.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        number = whole or (isinstance(value, float) and math.isfinite(value))
        valid, expected = {
            "frames": (whole and value >= 1, "a number of at least 1"),
            "kind": (
                value in ("uniform", "segments", "dense"),
                "'uniform', 'segments' or 'dense'",
            ),
            "stride": (number and value > 0, "a number above 0"),
            "fps": (number and value >= 0, "0 or a number above 0"),
            "clips": (whole and value >= 1, "a number of at least 1"),
            "crops": (whole and value in (1, 3), "1 or 3"),
            "first": (value in ("middle", "start"), "'middle' or 'start'"),
        }[name]
        if not valid:
            raise ConfigError(f"`Sampling.{name}` must be {expected}: got {value!r}.")
