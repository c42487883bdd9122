"""Data sets of images and clips: open, split, audit, augment and load in batches."""

from vitral.data.audit import Audit, check
from vitral.data.augmentation import Augment, AugmentConfig, MixConfig
from vitral.data.benchmarks import Benchmark, benchmark, expand, groups
from vitral.data.dataset import BadFile, Dataset, FileReader, IgnoredFile
from vitral.data.example import Example
from vitral.data.images import (
    DecodedImage,
    Geometry,
    Readable,
    Size,
    decode,
    drop_vanished,
)
from vitral.data.loading import (
    Batch,
    EvalTransform,
    Failure,
    Loader,
    SampleRef,
    Transform,
    TransformSchedule,
    clip_views,
    evaluation_transform,
    split_loader,
    training_transform,
)
from vitral.data.open import NAMES, SourceFacts, describe_source
from vitral.data.open import open_dataset as open  # noqa: A004 # read as data.open
from vitral.data.preprocess import InputKind, Preprocess, input_kind
from vitral.data.sources import read_unlabelled
from vitral.data.targets import ClassTarget, ClassTargets, Targets
from vitral.data.video import Clip, FrameTimes, Sampling, open_clip

__all__ = [
    "NAMES",
    "Audit",
    "Augment",
    "AugmentConfig",
    "BadFile",
    "Batch",
    "Benchmark",
    "ClassTarget",
    "ClassTargets",
    "Clip",
    "Dataset",
    "DecodedImage",
    "EvalTransform",
    "Example",
    "Failure",
    "FileReader",
    "FrameTimes",
    "Geometry",
    "IgnoredFile",
    "InputKind",
    "Loader",
    "MixConfig",
    "Preprocess",
    "Readable",
    "SampleRef",
    "Sampling",
    "Size",
    "SourceFacts",
    "Targets",
    "Transform",
    "TransformSchedule",
    "benchmark",
    "check",
    "clip_views",
    "decode",
    "describe_source",
    "drop_vanished",
    "evaluation_transform",
    "expand",
    "groups",
    "input_kind",
    "open",
    "open_clip",
    "read_unlabelled",
    "split_loader",
    "training_transform",
]
