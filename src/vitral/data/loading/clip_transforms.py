"""Transforms of clips: sample frames, then apply the image transform to each.

All frames of a view use the same random key, so they are varied in the same way.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitral.data.augmentation import Augment, AugmentConfig
from vitral.data.frame_sampling import Sampling
from vitral.data.images import Preprocess, Size
from vitral.data.loading.batch import EvalTransform, Transform
from vitral.data.rng import generator_for
from vitral.data.video import Clip


@dataclass(frozen=True, kw_only=True)
class EvalClipTransform:
    """Transform for evaluation: all views of a clip, without randomness."""

    preprocess: Preprocess

    def __call__(
        self, clip: Clip, example_id: str, draw: int
    ) -> (
        Float[Tensor, "frames 3 height width"]
        | Float[Tensor, "views frames 3 height width"]
    ):
        views = clip_views(self.preprocess, clip)
        return views[0] if len(views) == 1 else views


@dataclass(frozen=True, kw_only=True)
class AugmentClip:
    """Transform for training: random frames, all varied in the same way."""

    config: AugmentConfig
    preprocess: Preprocess
    seed: int = 0

    def __call__(
        self, clip: Clip, example_id: str, draw: int
    ) -> Float[Tensor, "frames 3 height width"]:
        key = ("frames", self.seed, self.config.view(draw), example_id)
        chosen = _require_sampling(self.preprocess).sample_training(
            clip.times, generator_for(*key)
        )
        vary = Augment(config=self.config, preprocess=self.preprocess, seed=self.seed)
        frames = clip.read(chosen)
        return torch.stack([vary(frame, example_id, draw) for frame in frames])


def evaluation_transform(preprocess: Preprocess) -> Transform:
    """Return the transform for evaluation, of clips if the model samples frames."""
    transform = EvalTransform if preprocess.sampling is None else EvalClipTransform
    return transform(preprocess=preprocess)


def training_transform(
    config: AugmentConfig, preprocess: Preprocess, seed: int
) -> Transform:
    """Return the transform for training, of clips if the model samples frames."""
    transform = Augment if preprocess.sampling is None else AugmentClip
    return transform(config=config, preprocess=preprocess, seed=seed)


def clip_views(
    preprocess: Preprocess, clip: Clip
) -> Float[Tensor, "views frames 3 height width"]:
    """Return the views of a clip for evaluation: temporal views times spatial crops.

    Raises:
        ImageError: a frame cannot be decoded.
    """
    sampling = _require_sampling(preprocess)
    chosen = sampling.sample_evaluation(clip.times)
    frames = clip.read(chosen.reshape(-1))
    pixels = torch.stack([_spatial_crops(preprocess, frame) for frame in frames])
    crops, channels, height, width = pixels.shape[1:]
    shape = (sampling.clips, sampling.frames, crops, channels, height, width)
    return preprocess.normalize(
        pixels.reshape(shape).transpose(1, 2).flatten(0, 1).contiguous()
    )


def _spatial_crops(
    preprocess: Preprocess, frame: Image.Image
) -> Float[Tensor, "crops 3 height width"]:
    """Crop the centre, or both ends of the longer side and the centre between."""
    if _require_sampling(preprocess).crops == 1:
        return preprocess.resize_and_crop(frame)[None]
    size = preprocess.size_before_crop(Size(frame.height, frame.width))
    pixels = preprocess.resample(frame, size)
    height, width = preprocess.image_size
    spare = Size(size.height - height, size.width - width)
    crops = []
    for share in (0.0, 0.5, 1.0):
        along_width = spare.width >= spare.height
        left = round(spare.width * (share if along_width else 0.5))
        top = round(spare.height * (0.5 if along_width else share))
        crops.append(pixels[:, top : top + height, left : left + width])
    return torch.stack(crops)


def _require_sampling(preprocess: Preprocess) -> Sampling:
    assert preprocess.sampling is not None, "a model of images got a clip"
    return preprocess.sampling
