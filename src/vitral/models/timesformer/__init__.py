"""TimeSformer (arXiv 2102.05095): space-time attention on clips."""

from vitral.models.timesformer.config import (
    STEPS,
    AttentionType,
    TimeSformerConfig,
    keys_per_query,
)
from vitral.models.timesformer.inflate import (
    clip_config,
    from_image,
    image_tensor_name,
    start_config,
)
from vitral.models.timesformer.timesformer import FAMILY, TimeSformer
from vitral.models.timesformer.tokens import TokenIndices

__all__ = [
    "FAMILY",
    "STEPS",
    "AttentionType",
    "TimeSformer",
    "TimeSformerConfig",
    "TokenIndices",
    "clip_config",
    "from_image",
    "image_tensor_name",
    "keys_per_query",
    "start_config",
]
