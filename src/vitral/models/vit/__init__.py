"""Vision Transformer (arXiv 2010.11929)."""

from vitral.models.vit.build import attention_settings, build_block, build_head
from vitral.models.vit.config import IN_ATTENTION, SIZES, MergeSchedule, ViTConfig
from vitral.models.vit.macs import block_macs, encoder_macs
from vitral.models.vit.names import FOREIGN_SIZES
from vitral.models.vit.vit import FAMILY, ViT

__all__ = [
    "FAMILY",
    "FOREIGN_SIZES",
    "IN_ATTENTION",
    "SIZES",
    "MergeSchedule",
    "ViT",
    "ViTConfig",
    "attention_settings",
    "block_macs",
    "build_block",
    "build_head",
    "encoder_macs",
]
