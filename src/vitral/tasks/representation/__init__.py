"""Representation learning: objectives that need no labels (MAE, masked patches)."""

from typing import TYPE_CHECKING

from vitral.lazy import lazy_getattr
from vitral.tasks.representation.config import MAEConfig, MaskedPatchConfig
from vitral.tasks.representation.task import TASK, RepresentationTask

if TYPE_CHECKING:
    from vitral.tasks.representation.mae import MAE
    from vitral.tasks.representation.masked_patch import MaskedPatch

__getattr__ = lazy_getattr(
    __name__,
    {
        "vitral.tasks.representation.mae": "MAE",
        "vitral.tasks.representation.masked_patch": "MaskedPatch",
    },
)

__all__ = [
    "MAE",
    "TASK",
    "MAEConfig",
    "MaskedPatch",
    "MaskedPatchConfig",
    "RepresentationTask",
]
