"""Where images and clips come from, and how they become batches, without a model."""

from vitral.data.audit import Audit, check
from vitral.data.augmentation import Augment, AugmentConfig, MixConfig
from vitral.data.benchmarks import Benchmark, benchmark, expand, groups
from vitral.data.dataset import BadFile, DataSet, Example, FileReader, Ignored
from vitral.data.frame_sampling import Sampling
from vitral.data.images import Decoded, Preprocess, Size, decode
from vitral.data.loading import (
    Batch,
    Failure,
    Loader,
    Plain,
    Shown,
    Stages,
    Transform,
    clip_views,
    evaluation_transform,
    training_transform,
)
from vitral.data.open import NAMES
from vitral.data.open import open_data as open  # noqa: A004 # read as data.open
from vitral.data.sources import read_unlabelled
from vitral.data.video import Clip, open_clip

__all__ = [
    "NAMES",
    "Audit",
    "Augment",
    "AugmentConfig",
    "BadFile",
    "Batch",
    "Benchmark",
    "Clip",
    "DataSet",
    "Decoded",
    "Example",
    "Failure",
    "FileReader",
    "Ignored",
    "Loader",
    "MixConfig",
    "Plain",
    "Preprocess",
    "Sampling",
    "Shown",
    "Size",
    "Stages",
    "Transform",
    "benchmark",
    "check",
    "clip_views",
    "decode",
    "evaluation_transform",
    "expand",
    "groups",
    "open",
    "open_clip",
    "read_unlabelled",
    "training_transform",
]
