"""Where images and clips come from, and how they become batches, without a model."""

from vitral.data.audit import Audit, check
from vitral.data.augment import Augment, AugmentConfig
from vitral.data.batches import Batch, Plain
from vitral.data.clips import Clip, open_clip
from vitral.data.dataset import BadFile, DataSet, Example, FileReader, Ignored
from vitral.data.images import Decoded, decode
from vitral.data.loader import Failure, Loader
from vitral.data.mix import MixConfig
from vitral.data.named import NAMES
from vitral.data.preprocess import Preprocess
from vitral.data.sampling import Sampling
from vitral.data.source import open_data as open  # noqa: A004 # read as data.open
from vitral.data.views import clip_views, evaluation_transform, training_transform

__all__ = [
    "NAMES",
    "Audit",
    "Augment",
    "AugmentConfig",
    "BadFile",
    "Batch",
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
    "check",
    "clip_views",
    "decode",
    "evaluation_transform",
    "open",
    "open_clip",
    "training_transform",
]
