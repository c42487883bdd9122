"""Load batches: order, workers, transforms, the rows of one rank."""

from vitral.data.loading.batch import (
    Batch,
    one_thread,
)
from vitral.data.loading.clip_transforms import (
    clip_views,
    evaluation_transform,
    training_transform,
)
from vitral.data.loading.loader import (
    Failure,
    Loader,
    SampleRef,
    TransformSchedule,
)
from vitral.data.loading.split_loader import split_loader
from vitral.data.loading.thread_map import map_in_threads
from vitral.data.loading.transforms import EvalTransform, Transform
from vitral.data.loading.workers import map_in_workers

__all__ = [
    "Batch",
    "EvalTransform",
    "Failure",
    "Loader",
    "SampleRef",
    "Transform",
    "TransformSchedule",
    "clip_views",
    "evaluation_transform",
    "map_in_threads",
    "map_in_workers",
    "one_thread",
    "split_loader",
    "training_transform",
]
