"""Transforms by kind of input; of clips they apply the image transform to each frame.

All frames of a view use the same random key, so they are varied in the same way.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitral.data.augmentation import Augment, AugmentConfig
from vitral.data.images import Geometry
from vitral.data.loading.transforms import EvalTransform, Transform
from vitral.data.preprocess import InputKind, Preprocess
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
        views = self.preprocess.clip_views(clip)
        return views[0] if len(views) == 1 else views

    def geometry(self, clip: Clip, example_id: str, draw: int) -> Geometry:
        """Return the geometry of all frames.

        Raises:
            ConfigError: views are cut at several places of a frame.
        """
        return self.preprocess.clip_geometry(clip)


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
        frames = self.preprocess.draw_frames(clip, generator_for(*key))
        return torch.stack([self._vary(frame, example_id, draw) for frame in frames])

    def geometry(self, clip: Clip, example_id: str, draw: int) -> Geometry:
        """Return the geometry of all frames."""
        return self._vary.geometry(clip.read([0])[0], example_id, draw)

    @property
    def _vary(self) -> Augment:
        return Augment(config=self.config, preprocess=self.preprocess, seed=self.seed)


EVALUATION: dict[InputKind, type[EvalTransform | EvalClipTransform]] = {
    "images": EvalTransform,
    "clips": EvalClipTransform,
}
TRAINING: dict[InputKind, type[Augment | AugmentClip]] = {
    "images": Augment,
    "clips": AugmentClip,
}


def evaluation_transform(preprocess: Preprocess) -> Transform:
    """Return the transform for evaluation of the kind that the model takes."""
    return EVALUATION[preprocess.kind](preprocess=preprocess)


def training_transform(
    config: AugmentConfig, preprocess: Preprocess, seed: int
) -> Transform:
    """Return the transform for training of the kind that the model takes."""
    transform = TRAINING[preprocess.kind]
    return transform(config=config, preprocess=preprocess, seed=seed)


def clip_views(
    preprocess: Preprocess, clip: Clip
) -> Float[Tensor, "views frames 3 height width"]:
    """Return the views of a clip for evaluation: temporal views times spatial crops.

    Raises:
        ImageError: a frame cannot be decoded.
    """
    return preprocess.clip_views(clip)
