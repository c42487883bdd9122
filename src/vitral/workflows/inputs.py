"""Load images or clips as a model takes them, and choose the frames of clips."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitral.data import (
    Dataset,
    Preprocess,
    Sampling,
    clip_views,
    evaluation_transform,
    open_clip,
)
from vitral.data.example import Example
from vitral.data.images import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from vitral.data.video import CLIP_EXTENSIONS, Clip, clip_from_array
from vitral.errors import ConfigError, DataError, ImageError
from vitral.models import ModelConfig

InputKind = Literal["auto", "clips"]
Readable = str | Path | bytes | Image.Image | np.ndarray
VIDEO_MODEL = "timesformer_s16"
"""Model that error messages suggest for clips."""


def input_kind(model: ModelConfig) -> InputKind:
    """Return the `kind` that `vitral.data.open` needs for a model."""
    return "clips" if model.num_frames else "auto"


def require_images(dataset: Dataset, kind: InputKind) -> None:
    """Refuse clips for a model of images; opening the data refuses the reverse."""
    if dataset.kind == "clips" and kind != "clips":
        raise DataError(
            f"{dataset.root} holds clips, such as {dataset.examples[0].id}, but the "
            "model takes single images. Choose a video model, such as "
            f"`--model {VIDEO_MODEL}`, or give images."
        )


def with_sampling(
    preprocess: Preprocess, model: ModelConfig, changes: dict[str, Any]
) -> Preprocess:
    """Apply `changes` to the preprocessing, and set the frames that the model takes."""
    values = {**preprocess.to_dict(), **changes}
    requested = changes.get("sampling") or {}
    if not model.num_frames:
        if requested:
            raise ConfigError(
                "`sampling` chooses the frames of clips, but the model takes single "
                f"images: got {requested}. Leave it out, or choose a video model."
            )
        return Preprocess.from_dict(values)
    if requested.get("frames", model.num_frames) != model.num_frames:
        raise ConfigError(
            f"`sampling.frames` {requested['frames']} is not the model's number of "
            f"frames, {model.num_frames}. Set the model's with `--set num_frames=N`."
        )
    current = (preprocess.sampling or Sampling()).to_dict()
    values["sampling"] = {**current, **requested, "frames": model.num_frames}
    return Preprocess.from_dict(values)


def with_single_view(preprocess: Preprocess) -> Preprocess:
    """Return the preprocessing with a single view of each clip."""
    if preprocess.sampling is None:
        return preprocess
    return replace(preprocess, sampling=replace(preprocess.sampling, clips=1, crops=1))


def with_views(preprocess: Preprocess, views: str) -> Preprocess:
    """Return the preprocessing with other evaluation views of a clip.

    Args:
        views: `2x3` is two choices of frames by three crops; empty changes nothing.

    Raises:
        ConfigError: `views` is not of this form, or the model takes no clips.
    """
    if not views:
        return preprocess
    match = re.fullmatch(r"(\d+)x(\d+)", views)
    if match is None:
        raise ConfigError(
            f"`--views {views}` must be two numbers, choices of frames by crops, such "
            "as `3x1`."
        )
    if preprocess.sampling is None:
        raise ConfigError(
            f"`--views {views}` is for clips, but the model takes single images. Leave "
            "it out."
        )
    clips, crops = (int(count) for count in match.groups())
    sampling = replace(preprocess.sampling, clips=clips, crops=crops)
    return replace(preprocess, sampling=sampling)


def evaluation_batch_size(preprocess: Preprocess, images: int = 32) -> int:
    """Return the evaluation batch size: smaller if an example has many frames."""
    sampling = preprocess.sampling
    if sampling is None:
        return images
    frames = sampling.frames * sampling.clips * sampling.crops
    return max(1, images * 8 // frames)


def load_input(preprocess: Preprocess, source: Readable) -> Float[Tensor, "..."]:
    """Load a file, or decoded data, as a model takes it in evaluation."""
    if preprocess.sampling is None:
        if isinstance(source, str | Path) and _is_clip(Path(source)):
            raise ImageError("it is a clip, but the model takes single images")
        return preprocess(source)
    return evaluation_transform(preprocess)(read_clip(source), "", 0)


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Start times of the frames that a model sees, relative to the clip's first."""

    seconds: tuple[float, ...]
    labels: tuple[str, ...]
    """Times as text; the index of the frame if the source stores no times."""


def load_first_view(
    preprocess: Preprocess, clip: Clip
) -> tuple[Float[Tensor, "frames 3 height width"], FrameTimes]:
    """Load one view of a clip as a model sees it, with the times of its frames."""
    preprocess = with_single_view(preprocess)
    assert preprocess.sampling is not None
    indices = preprocess.sampling.sample_evaluation(clip.times)[0]
    seconds = tuple(float(s) for s in clip.times[indices] - clip.times[0])
    if clip.timed:
        labels = tuple(f"{second:.2f} s" for second in seconds)
    else:
        labels = tuple(f"frame {index}" for index in indices)
    return clip_views(preprocess, clip)[0], FrameTimes(seconds, labels)


def load_example(
    preprocess: Preprocess, dataset: Dataset, example: Example
) -> Float[Tensor, "*frames 3 height width"]:
    """Load an example as it is evaluated; of a clip one view."""
    if preprocess.sampling is None:
        return preprocess(dataset.read(example))
    clip = dataset.open(example)
    assert isinstance(clip, Clip)
    return load_first_view(preprocess, clip)[0]


def make_filmstrip(pixels: Float[Tensor, "..."]) -> Float[Tensor, "3 height width"]:
    """Join the frames of a clip side by side; an image is unchanged."""
    return pixels if pixels.ndim == 3 else torch.cat(list(pixels), dim=-1)


def read_clip(source: Readable) -> Clip:
    """Open a clip from a path or an array."""
    if isinstance(source, np.ndarray):
        return clip_from_array(source)
    if not isinstance(source, str | Path):
        raise ConfigError(
            "A clip is given by its path, or as a uint8 array [frames, height, width, "
            f"3]: got {type(source).__name__}. Write it to a file first."
        )
    path = Path(source)
    if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file():
        raise ImageError("it is an image, but the model takes clips")
    if not path.exists():
        raise ImageError("the file cannot be read: No such file or directory")
    return open_clip(path)


def _is_clip(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in CLIP_EXTENSIONS
