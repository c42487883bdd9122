"""What a model is trained to do: forward(batch) gives a loss and scalar metrics."""

from vitral.objectives.supervised import BatchLike, Supervised, SupervisedConfig

__all__ = ["BatchLike", "Supervised", "SupervisedConfig"]
