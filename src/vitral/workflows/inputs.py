"""Where a run has to know clips from images: which of the two a model takes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from vitral.data.dataset import Example
from vitral.data.images import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from vitral.data.video import CLIP_EXTENSIONS, Clip, clip_from_array
from vitral.errors import ConfigError, DataError, ImageError
from vitral.models import ModelConfig

InputKind = Literal["auto", "clips"]
Readable = str | Path | bytes | Image.Image | np.ndarray
VIDEO_MODEL = "timesformer_s16"


def input_kind(model: ModelConfig) -> InputKind:
    """What `vitral.data.open` has to look for."""
    return "clips" if model.num_frames else "auto"


def require_images(dataset: Dataset, kind: InputKind) -> None:
    """Say that a model of images cannot take clips; the reverse is said on opening.

    Raises:
        DataError: `dataset` holds clips and `kind` is not "clips".
    """
    if dataset.kind == "clips" and kind != "clips":
        raise DataError(
            f"{dataset.root} holds clips, such as {dataset.examples[0].id}, but the "
            "model takes single images. Choose a video model, such as "
            f"`--model {VIDEO_MODEL}`, or give images."
        )


def with_sampling(
    preprocess: Preprocess, model: ModelConfig, changes: dict[str, Any]
) -> Preprocess:
    """The pre-processing with `changes`, and with the frames that a model takes.

    Raises:
        ConfigError: a field is unknown or not allowed, or belongs to clips only.
    """
    values = {**preprocess.to_dict(), **changes}
    asked = changes.get("sampling") or {}
    if not model.num_frames:
        if asked:
            raise ConfigError(
                "`sampling` chooses the frames of clips, but the model takes single "
                f"images: got {asked}. Leave it out, or choose a video model."
            )
        return Preprocess.from_dict(values)
    if asked.get("frames", model.num_frames) != model.num_frames:
        raise ConfigError(
            f"`sampling.frames` {asked['frames']} is not the model's number of frames, "
            f"{model.num_frames}. Set the model's with `--set num_frames=N`."
        )
    own = (preprocess.sampling or Sampling()).to_dict()
    values["sampling"] = {**own, **asked, "frames": model.num_frames}
    return Preprocess.from_dict(values)


def with_single_view(preprocess: Preprocess) -> Preprocess:
    """The same with a single view of each clip, where one has to do."""
    if preprocess.sampling is None:
        return preprocess
    return replace(preprocess, sampling=replace(preprocess.sampling, clips=1, crops=1))


def with_views(preprocess: Preprocess, views: str) -> Preprocess:
    """The same with other views in evaluation: `2x3` is two choices of frames by three
    crops; empty changes nothing.

    Raises:
        ConfigError: it is not of this form, or the model takes no clips.
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
    clips, crops = (int(number) for number in match.groups())
    sampling = replace(preprocess.sampling, clips=clips, crops=crops)
    return replace(preprocess, sampling=sampling)


def evaluation_batch_size(preprocess: Preprocess, images: int = 32) -> int:
    """How many examples are evaluated at once: fewer where each is many frames."""
    sampling = preprocess.sampling
    if sampling is None:
        return images
    each = sampling.frames * sampling.clips * sampling.crops
    return max(1, images * 8 // each)


def load_input(preprocess: Preprocess, source: Readable) -> Float[Tensor, "..."]:
    """What a model sees of a file, or of what is in memory, in evaluation.

    Raises:
        ImageError: it cannot be decoded, or is of the other kind.
    """
    if preprocess.sampling is None:
        if isinstance(source, str | Path) and _is_clip(Path(source)):
            raise ImageError("it is a clip, but the model takes single images")
        return preprocess(source)
    return evaluation_transform(preprocess)(read_clip(source), "", 0)


class FrameTimes(NamedTuple):
    """When the frames that a model sees begin, counted from the clip's first."""

    seconds: tuple[float, ...]
    labels: tuple[str, ...]
    """As people read them: the number of the frame where the source keeps no time."""


def load_first_view(
    preprocess: Preprocess, clip: Clip
) -> tuple[Float[Tensor, "frames 3 height width"], FrameTimes]:
    """One view of a clip as a model sees it, and when its frames begin.

    Raises:
        ImageError: a frame cannot be decoded.
    """
    one = with_single_view(preprocess)
    assert one.sampling is not None
    numbers = one.sampling.sample_evaluation(clip.times)[0]
    seconds = tuple(float(s) for s in clip.times[numbers] - clip.times[0])
    if clip.timed:
        words = tuple(f"{second:.2f} s" for second in seconds)
    else:
        words = tuple(f"frame {number}" for number in numbers)
    return clip_views(one, clip)[0], FrameTimes(seconds, words)


def load_example(
    preprocess: Preprocess, dataset: Dataset, example: Example
) -> Float[Tensor, "*frames 3 height width"]:
    """An example as it is evaluated; of a clip one view.

    Raises:
        ImageError: it cannot be decoded.
    """
    if preprocess.sampling is None:
        return preprocess(dataset.read(example))
    clip = dataset.open(example)
    assert isinstance(clip, Clip)
    return load_first_view(preprocess, clip)[0]


def make_filmstrip(pixels: Float[Tensor, "..."]) -> Float[Tensor, "3 height width"]:
    """Frames side by side, for people; an image stays as it is."""
    return pixels if pixels.ndim == 3 else torch.cat(list(pixels), dim=-1)


def read_clip(source: Readable) -> Clip:
    """A clip by its path or from memory.

    Raises:
        ImageError: it cannot be opened, or is an image.
    """
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
