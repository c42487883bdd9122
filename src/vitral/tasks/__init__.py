"""Tasks: everything that a model can be asked, one folder each."""

from vitral.tasks.classification import DistillConfig, SupervisedConfig
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.representation import MAEConfig, MaskedPatchConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    config.NAME: config
    for config in (SupervisedConfig, DistillConfig, MAEConfig, MaskedPatchConfig)
}
"""Settings class of each objective by its name."""

__all__ = ["OBJECTIVES", "ObjectiveConfig"]
