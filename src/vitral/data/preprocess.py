"""The input of a model: single images, or clips whose frames are sampled.

Whether a model takes images or clips is known here alone. Everybody else passes the
object along, and asks it to load, to draw or to count.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitral.data.images import Geometry, ImagePreprocess, Readable, Size, decode
from vitral.data.video import (
    Clip,
    FrameTimes,
    Sampling,
    get_frame_times,
    is_clip_path,
    load_views,
    read_clip,
)
from vitral.errors import ConfigError, ImageError
from vitral.validation import Checks

InputKind = Literal["images", "clips"]
"""Files that a model takes, in a word for messages."""


def input_kind(shape: Sequence[int]) -> InputKind:
    """Return the kind of input of a model before its preprocessing is known.

    Args:
        shape: of one input: [channels, height, width], before it the frames of a clip.
    """
    return "clips" if len(shape) == 4 else "images"


class InputView(NamedTuple):
    """One view of an input, as it enters a model in evaluation."""

    pixels: Float[Tensor, "*frames 3 height width"]
    frame_times: tuple[FrameTimes, ...] = ()
    """Times of the frames of a clip; empty for an image."""


@dataclass(frozen=True, kw_only=True)
class Preprocess(ImagePreprocess):
    """Preprocessing of a model's input; stored with weights, exports and reports."""

    sampling: Sampling | None = None
    """Frames that are sampled from a clip. None: a model of single images."""

    CHECKS: ClassVar[Checks] = {
        **ImagePreprocess.CHECKS,
        "sampling": (
            lambda value: value is None or isinstance(value, dict),
            "the fields of Sampling, or none",
        ),
    }
    SECTIONS: ClassVar[tuple[str, ...]] = ("sampling",)
    """Fields that have fields of their own, written as `SECTION.FIELD`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling and not self.is_rgb8:
            raise ConfigError(
                "The frames of clips are red, green and blue of 8 bits: got "
                f"{self.channels} channels, values from "
                f"{self.value_range or (0, 255)}. Choose a model of single images."
            )
        if self.sampling and self.sampling.crops > 1 and self.resize == "squash":
            raise ConfigError(
                f"`Sampling.crops` {self.sampling.crops} needs frames that are wider "
                "or higher than the image: set `Preprocess.resize` to 'crop'."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` reads them back."""
        values = super().to_dict()
        # Without clips the key is left out: hashes of image models are older.
        del values["sampling"]
        clips = {"sampling": self.sampling.to_dict()} if self.sampling else {}
        return values | clips

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocess":
        """Read what `to_dict` wrote; absent fields take their defaults.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        plain = cls.parse_fields(values)
        if plain.get("sampling") is not None:
            plain["sampling"] = Sampling.from_dict(plain["sampling"])
        return cls(**plain)

    def for_input(
        self, shape: Sequence[int], changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "Preprocess":
        """Apply `changes`, and choose as many frames as a model takes.

        Args:
            shape: of one input of the model, as `input_kind` takes it.
            changes: fields of this class by name, as `from_dict` reads them.

        Raises:
            ConfigError: a field is unknown or its value not allowed, or the frames that
                are asked for are not those of the model.
        """
        # Before the changes, which say mean and deviation of the new channels.
        values = {**self.with_channels(shape[-3]).to_dict(), **changes}
        requested = changes.get("sampling") or {}
        if len(values["mean"]) != shape[-3]:
            raise ConfigError(
                f"`mean` has {len(values['mean'])} numbers, and the model takes "
                f"{shape[-3]} channels: give one for each."
            )
        if input_kind(shape) == "images":
            if requested:
                raise ConfigError(
                    "`sampling` chooses the frames of clips, but the model takes "
                    f"single images: got {requested}. Leave it out, or choose a video "
                    "model."
                )
            return self.from_dict(values)
        if requested.get("frames", shape[0]) != shape[0]:
            raise ConfigError(
                f"`sampling.frames` {requested['frames']} is not the model's number of "
                f"frames, {shape[0]}. Set the model's with `--set num_frames=N`."
            )
        current = (self.sampling or Sampling()).to_dict()
        values["sampling"] = {**current, **requested, "frames": shape[0]}
        return self.from_dict(values)

    def with_channels(self, channels: int) -> "Preprocess":
        """Return the preprocessing for another number of channels.

        Each has the average of mean and deviation.
        """
        if channels == self.channels:
            return self
        mean, std = (sum(v) / len(v) for v in (self.mean, self.std))
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)

    def with_single_view(self) -> "Preprocess":
        """Return the preprocessing with a single view of each input."""
        if self.sampling is None:
            return self
        return replace(self, sampling=replace(self.sampling, clips=1, crops=1))

    def with_views(self, views: str) -> "Preprocess":
        """Return the preprocessing with other evaluation views of a clip.

        Args:
            views: `2x3` is two choices of frames by three crops; empty changes nothing.

        Raises:
            ConfigError: `views` is not of this form, or the model takes no clips.
        """
        if not views:
            return self
        match = re.fullmatch(r"(\d+)x(\d+)", views)
        if match is None:
            raise ConfigError(
                f"`views={views}` must be two numbers, choices of frames by crops, "
                "such as `3x1`."
            )
        if self.sampling is None:
            raise ConfigError(
                f"`views={views}` is for clips, but the model takes single images. "
                "Leave it out."
            )
        clips, crops = (int(count) for count in match.groups())
        return replace(self, sampling=replace(self.sampling, clips=clips, crops=crops))

    def require_images(self, reason: str) -> None:
        """Raise ConfigError with `reason` if the model takes clips."""
        if self.sampling is not None:
            raise ConfigError(reason)

    @property
    def kind(self) -> InputKind:
        """Return the kind of files that the model takes."""
        return "images" if self.sampling is None else "clips"

    @property
    def noun(self) -> str:
        """Return the word for one readable file."""
        return "picture" if self.sampling is None else "clip"

    def batch_size(self, images: int = 32) -> int:
        """Return the evaluation batch size: smaller if an input has many frames."""
        sampling = self.sampling
        if sampling is None:
            return images
        frames = sampling.frames * sampling.clips * sampling.crops
        return max(1, images * 8 // frames)

    def reader_threads(self, available: int) -> int:
        """Return how many of the available threads may read files at once."""
        # One separate process decodes all clips.
        return available if self.sampling is None else 1

    def load(self, source: Readable) -> Float[Tensor, "..."]:
        """Load a file, or decoded data, as the model takes it in evaluation.

        Raises:
            ConfigError: a clip is given as bytes or as an image.
            ImageError: the source cannot be decoded, or is of the other kind.
        """
        if self.sampling is None:
            if isinstance(source, str | Path) and is_clip_path(Path(source)):
                raise ImageError("it is a clip, but the model takes single images")
            return self(source)
        views = self.clip_views(read_clip(source))
        return views[0] if len(views) == 1 else views

    def load_with_size(
        self, source: Readable
    ) -> tuple[Float[Tensor, "..."], Size | None]:
        """Load a file as `load` does, with the size of the upright picture.

        Of a clip the size is None.
        """
        if self.sampling is not None or not isinstance(source, str | Path):
            return self.load(source), None
        if is_clip_path(Path(source)):
            return self.load(source), None  # which refuses it
        image = decode(Path(source)).image
        return self(image), Size(image.height, image.width)

    def load_view(self, source: Readable) -> InputView:
        """Load a file as `load` does; of a clip one view, with its times."""
        if self.sampling is None:
            return InputView(self.load(source))
        return self.first_view(read_clip(source))

    def first_view(self, opened: Image.Image | Clip) -> InputView:
        """Return one view of what `Dataset.open` gives, as it enters the model."""
        if self.sampling is None:
            assert isinstance(opened, Image.Image)
            return InputView(self(opened))
        assert isinstance(opened, Clip)
        single = self.with_single_view()
        times = get_frame_times(single._clip_sampling, opened)
        return InputView(single.clip_views(opened)[0], (times,))

    def clip_views(self, clip: Clip) -> Float[Tensor, "views frames 3 height width"]:
        """Return the views of a clip for evaluation.

        Raises:
            ImageError: a frame cannot be decoded.
        """
        return load_views(self, self._clip_sampling, clip)

    def clip_geometry(self, clip: Clip) -> Geometry:
        """Return the geometry of all frames in evaluation.

        Raises:
            ConfigError: views are cut at several places of a frame.
        """
        crops = self._clip_sampling.crops
        if crops > 1:
            raise ConfigError(
                f"`Sampling.crops` is {crops}, and a target that moves with the frames "
                "follows one crop: set it to 1."
            )
        first = clip.read([0])[0]
        return self.geometry(Size(first.height, first.width))

    def draw_frames(
        self, clip: Clip, generator: np.random.Generator
    ) -> list[Image.Image]:
        """Return the frames of one training view of a clip.

        Raises:
            ImageError: a frame cannot be decoded.
        """
        return clip.read(self._clip_sampling.sample_training(clip.times, generator))

    def picture(
        self, pixels: Float[Tensor, "*frames channels height width"]
    ) -> Image.Image:
        """Return one view for a person; the frames of a clip side by side."""
        strip = pixels if self.sampling is None else torch.cat(list(pixels), dim=-1)
        return Image.fromarray(self.denormalize(strip).permute(1, 2, 0).numpy())

    @property
    def _clip_sampling(self) -> Sampling:
        assert self.sampling is not None, "a model of images got a clip"
        return self.sampling
