"""Views of a clip as a model sees them, and clips from paths and arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitral.data.images import (
    IMAGE_EXTENSIONS,
    CropBox,
    ImagePreprocess,
    Readable,
    Size,
)
from vitral.data.video.clip import Clip
from vitral.data.video.frame_sampling import Sampling
from vitral.data.video.frames import clip_from_array, open_clip
from vitral.errors import ConfigError, ImageError


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Start times of the frames that a model sees, relative to the clip's first."""

    seconds: tuple[float, ...]
    labels: tuple[str, ...]
    """Times as text; the index of the frame if the source stores no times."""


def load_views(
    preprocess: ImagePreprocess, sampling: Sampling, clip: Clip
) -> Float[Tensor, "views frames 3 height width"]:
    """Return the views of a clip for evaluation: temporal views times spatial crops.

    Raises:
        ImageError: a frame cannot be decoded.
    """
    chosen = sampling.sample_evaluation(clip.times)
    frames = clip.read(chosen.reshape(-1))
    pixels = torch.stack(
        [_spatial_crops(preprocess, frame, sampling.crops) for frame in frames]
    )
    crops, channels, height, width = pixels.shape[1:]
    shape = (sampling.clips, sampling.frames, crops, channels, height, width)
    return preprocess.normalize(
        pixels.reshape(shape).transpose(1, 2).flatten(0, 1).contiguous()
    )


def _spatial_crops(
    preprocess: ImagePreprocess, frame: Image.Image, crops: int
) -> Float[Tensor, "crops 3 height width"]:
    """Crop the centre, or both ends of the longer side and the centre between."""
    if crops == 1:
        return preprocess.resize_and_crop(frame)[None]
    size = preprocess.size_before_crop(Size(frame.height, frame.width))
    height, width = preprocess.image_size
    spare = Size(size.height - height, size.width - width)
    parts = []
    for share in (0.0, 0.5, 1.0):
        along_width = spare.width >= spare.height
        left = round(spare.width * (share if along_width else 0.5))
        top = round(spare.height * (0.5 if along_width else share))
        window = CropBox(top, left, top + height, left + width)
        parts.append(preprocess.resample(frame, size, window))
    return torch.stack(parts)


def get_frame_times(sampling: Sampling, clip: Clip) -> FrameTimes:
    """Return the times of the frames of the first view in evaluation."""
    indices = sampling.sample_evaluation(clip.times)[0]
    seconds = tuple(float(s) for s in clip.times[indices] - clip.times[0])
    if clip.timed:
        labels = tuple(f"{second:.2f} s" for second in seconds)
    else:
        labels = tuple(f"frame {index}" for index in indices)
    return FrameTimes(seconds, labels)


def read_clip(source: Readable) -> Clip:
    """Open a clip from a path or an array.

    Raises:
        ConfigError: the source is neither a path nor an array.
        ImageError: it is an image, or cannot be read.
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
