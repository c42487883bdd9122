"""Representation learning: objectives that need no labels (MAE, masked patches)."""

from vitral.tasks.representation.mae import MAE, MAEConfig
from vitral.tasks.representation.masked_patch import MaskedPatch, MaskedPatchConfig
from vitral.tasks.representation.task import TASK, RepresentationTask

__all__ = [
    "MAE",
    "TASK",
    "MAEConfig",
    "MaskedPatch",
    "MaskedPatchConfig",
    "RepresentationTask",
]
