"""TimeSformer (arXiv 2102.05095): space-time attention on clips."""

from vitral.models.timesformer.config import (
    STEPS,
    Scheme,
    TimeSformerConfig,
    keys_per_query,
)
from vitral.models.timesformer.inflate import clip_config, from_image, image_name
from vitral.models.timesformer.timesformer import FAMILY, TimeSformer
from vitral.models.timesformer.tokens import Places

__all__ = [
    "FAMILY",
    "STEPS",
    "Places",
    "Scheme",
    "TimeSformer",
    "TimeSformerConfig",
    "clip_config",
    "from_image",
    "image_name",
    "keys_per_query",
]
