"""Where images come from and how they become batches; nothing here knows a model."""

from vitral.data.audit import Audit, check
from vitral.data.augment import Augment, AugmentConfig
from vitral.data.batches import Batch, Plain
from vitral.data.benchmarks import Benchmark, benchmark, expand, groups
from vitral.data.dataset import BadFile, DataSet, Example, FileReader, Ignored
from vitral.data.images import Decoded, decode
from vitral.data.loader import Failure, Loader
from vitral.data.mix import MixConfig
from vitral.data.preprocess import Preprocess
from vitral.data.source import NAMES
from vitral.data.source import open_data as open  # noqa: A004 # read as data.open

__all__ = [
    "NAMES",
    "Audit",
    "Augment",
    "AugmentConfig",
    "BadFile",
    "Batch",
    "Benchmark",
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
    "benchmark",
    "check",
    "decode",
    "expand",
    "groups",
    "open",
]
