"""Frozen features of a whole data set, for few-shot, linear and k-NN evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

import vitral.data
from vitral.data import DataSet, Preprocess
from vitral.models import VisionModel
from vitral.run.clips import kind_for, refuse_clips
from vitral.run.feature_cache import (
    cached_features,
    computed,
    loader_of,
    reported,
    say,
)


class Labelled(NamedTuple):
    """Features and labels, in the order of the data set."""

    x: Float[Tensor, "examples dim"]
    y: Int[Tensor, " examples"]


def features(
    model: VisionModel,
    preprocess: Preprocess,
    data: str | DataSet,
    *,
    split: str = "",
    batch_size: int = 32,
    workers: int = 0,
    cache: str | Path | None = None,
    announce: Callable[[str], None] = say,
) -> Labelled:
    """What feeds the head of `model`, for every image that can be decoded; float32.

    Args:
        data: a data set, or what `vitral.data.open` takes.
        split: one split of it; empty for all.
        cache: a folder that keeps the features: the same weights, pre-processing and
            files are not run again. None keeps nothing.
        announce: gets a line for undecodable images, and one for a damaged cache.

    Raises:
        ConfigError: there is no such split.
        DataError: none of the images can be decoded.
    """
    kind = kind_for(model.config)
    dataset = data if isinstance(data, DataSet) else vitral.data.open(data, kind=kind)
    refuse_clips(dataset, kind)
    if cache is None:
        loader = loader_of(dataset, split, preprocess, batch_size, workers)
        found = reported(computed(model, loader), dataset, split, announce)
    else:
        found = cached_features(
            model,
            preprocess,
            dataset,
            split,
            cache,
            batch_size=batch_size,
            workers=workers,
            announce=announce,
        )
    return Labelled(found.x, found.y)
