"""Batches: order, workers, transforms, one rank's rows."""

from vitral.data.loading.batch import (
    Batch,
    Plain,
    Rows,
    Transform,
    one_thread,
    target_of,
)
from vitral.data.loading.clip_transforms import (
    clip_views,
    evaluation_transform,
    training_transform,
)
from vitral.data.loading.loader import Failure, Loader
from vitral.data.loading.rank_slice import pieces
from vitral.data.loading.repeated_augmentation import Shown, Stages
from vitral.data.loading.thread_map import in_threads
from vitral.data.loading.workers import in_workers

__all__ = [
    "Batch",
    "Failure",
    "Loader",
    "Plain",
    "Rows",
    "Shown",
    "Stages",
    "Transform",
    "clip_views",
    "evaluation_transform",
    "in_threads",
    "in_workers",
    "one_thread",
    "pieces",
    "target_of",
    "training_transform",
]
