"""Where images and clips come from, and how they become batches, without a model."""

from vitral.data.audit import Audit, check
from vitral.data.augment import Augment, AugmentConfig
from vitral.data.batches import Batch, Plain, Transform
from vitral.data.benchmarks import Benchmark, benchmark, expand, groups
from vitral.data.clips import Clip, open_clip
from vitral.data.dataset import BadFile, DataSet, Example, FileReader, Ignored
from vitral.data.epochs import Shown, Stages
from vitral.data.images import Decoded, decode
from vitral.data.loader import Failure, Loader
from vitral.data.mix import MixConfig
from vitral.data.preprocess import Preprocess, Size
from vitral.data.sampling import Sampling
from vitral.data.source import NAMES
from vitral.data.source import open_data as open  # noqa: A004 # read as data.open
from vitral.data.unlabelled import read_unlabelled
from vitral.data.views import clip_views, evaluation_transform, training_transform

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
