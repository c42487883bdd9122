"""What a model is trained to do: forward(batch) gives a loss and scalar metrics."""

from vitral.objectives.base import ObjectiveConfig
from vitral.objectives.distill import Distill, DistillConfig
from vitral.objectives.mae import MAE, MAEConfig
from vitral.objectives.masked_patch import MaskedPatch, MaskedPatchConfig
from vitral.objectives.supervised import BatchLike, Supervised, SupervisedConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    kind.NAME: kind
    for kind in (SupervisedConfig, DistillConfig, MAEConfig, MaskedPatchConfig)
}
"""The settings of each objective by its word."""

__all__ = [
    "MAE",
    "OBJECTIVES",
    "BatchLike",
    "Distill",
    "DistillConfig",
    "MAEConfig",
    "MaskedPatch",
    "MaskedPatchConfig",
    "ObjectiveConfig",
    "Supervised",
    "SupervisedConfig",
]
