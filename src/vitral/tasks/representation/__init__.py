"""Representation learning: objectives that need no labels (MAE, masked patches)."""

from vitral.tasks.representation.mae import MAE, MAEConfig
from vitral.tasks.representation.masked_patch import MaskedPatch, MaskedPatchConfig

__all__ = ["MAE", "MAEConfig", "MaskedPatch", "MaskedPatchConfig"]
