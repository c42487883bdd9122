"""From a clip to what a video model sees: frames chosen, then treated as images are.

Every frame goes through the image's own transform with the same key, so that what is
drawn at random is drawn once for all frames of a view.
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
    """The transform of evaluation: all views of a clip, without any randomness."""

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
    """The transform of training: random frames, each varied in the same way."""

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
    """How a model sees examples in evaluation: images, or clips if it samples them."""
    kind = EvalTransform if preprocess.sampling is None else EvalClipTransform
    return kind(preprocess=preprocess)


def training_transform(
    config: AugmentConfig, preprocess: Preprocess, seed: int
) -> Transform:
    """How a model sees examples in training: images, or clips if it samples them."""
    kind = Augment if preprocess.sampling is None else AugmentClip
    return kind(config=config, preprocess=preprocess, seed=seed)


def clip_views(
    preprocess: Preprocess, clip: Clip
) -> Float[Tensor, "views frames 3 height width"]:
    """All views of a clip in evaluation: its temporal views, each with its crops.

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
    """The centre, or both ends of the longer side and the centre between them."""
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
