"""Multiply-accumulates of one training image, by objective."""

from vitral.data import Preprocess
from vitral.models import ModelConfig
from vitral.workflows.config import TrainConfig
from vitral.workflows.train import image_sizes


def count_macs(config: TrainConfig, model: ModelConfig) -> int:
    """Count the forward pass of one training image; the mean over `resolutions`.

    Args:
        model: settings of the trained model.
    """
    preprocess = Preprocess(image_size=model.image_hw)
    sizes = image_sizes(config.resolutions, model, preprocess)
    counts = [config.objective.count_macs(model, (s.height, s.width)) for s in sizes]
    return round(sum(counts) / len(counts))
