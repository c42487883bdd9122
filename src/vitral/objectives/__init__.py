"""What a model is trained to do: forward(batch) gives a loss and scalar metrics."""

from vitral.objectives.distill import Distill, DistillConfig
from vitral.objectives.mae import MAE, MAEConfig
from vitral.objectives.masked_patch import MaskedPatch, MaskedPatchConfig
from vitral.objectives.supervised import BatchLike, Supervised, SupervisedConfig

__all__ = [
    "MAE",
    "BatchLike",
    "Distill",
    "DistillConfig",
    "MAEConfig",
    "MaskedPatch",
    "MaskedPatchConfig",
    "Supervised",
    "SupervisedConfig",
]
