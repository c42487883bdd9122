"""Train a model: from a config to a run folder."""

from vitral.workflows.train.build import optimizer_of, planned_model
from vitral.workflows.train.progressive_resizing import image_sizes
from vitral.workflows.train.session import begun
from vitral.workflows.train.train import train

__all__ = [
    "begun",
    "image_sizes",
    "optimizer_of",
    "planned_model",
    "train",
]
