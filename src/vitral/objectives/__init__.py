"""Training objectives: modules whose forward(batch) gives a loss and scalar metrics."""

from vitral.objectives.base import ObjectiveConfig
from vitral.objectives.distill import Distill, DistillConfig
from vitral.objectives.mae import MAE, MAEConfig
from vitral.objectives.masked_patch import MaskedPatch, MaskedPatchConfig
from vitral.objectives.supervised import BatchLike, Supervised, SupervisedConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    config.NAME: config
    for config in (SupervisedConfig, DistillConfig, MAEConfig, MaskedPatchConfig)
}
"""Settings class of each objective by its name."""

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
