"""Train a model: from a config to a run folder."""

from vitral.workflows.train.build import build_optimizer
from vitral.workflows.train.plan import resolve_model_config
from vitral.workflows.train.progressive_resizing import image_sizes
from vitral.workflows.train.train import train

__all__ = [
    "",
    "build_optimizer",
    "image_sizes",
    "resolve_model_config",
    "train",
]
