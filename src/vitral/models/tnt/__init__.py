"""Transformer in Transformer (arXiv 2103.00112)."""

from vitral.models.tnt.config import LEGACY_DIFFERENCE, SIZES, TNTConfig
from vitral.models.tnt.tnt import FAMILY, TNT

__all__ = ["FAMILY", "LEGACY_DIFFERENCE", "SIZES", "TNT", "TNTConfig"]
