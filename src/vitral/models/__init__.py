"""Floor 1: the models. One family is one module; names are found here.

`create("vit_b16", num_classes=10)` builds one with fresh weights. Names of timm and
Hugging Face for the same models are understood and answered with ours.
"""

from vitral.models.base import Family, ModelConfig, Size2d, VisionModel
from vitral.models.deit import DeiT, DeiTConfig
from vitral.models.features import Features, Tokens
from vitral.models.hybrid import HybridConfig
from vitral.models.merging import merge_if_asked, set_merge, without_merging
from vitral.models.registry import (
    build,
    changed,
    config,
    create,
    families,
    family_of,
    from_fields,
    name_of,
    names,
    tensor_shapes,
)
from vitral.models.resnet import ResNetConfig
from vitral.models.timesformer import (
    Scheme,
    TimeSformer,
    TimeSformerConfig,
    clip_config,
    from_image,
    image_name,
    keys_per_query,
)
from vitral.models.tnt import TNT, TNTConfig
from vitral.models.vit import SIZES, MergeSchedule, ViT, ViTConfig

__all__ = [
    "SIZES",
    "TNT",
    "DeiT",
    "DeiTConfig",
    "Family",
    "Features",
    "HybridConfig",
    "MergeSchedule",
    "ModelConfig",
    "ResNetConfig",
    "Scheme",
    "Size2d",
    "TNTConfig",
    "TimeSformer",
    "TimeSformerConfig",
    "Tokens",
    "ViT",
    "ViTConfig",
    "VisionModel",
    "build",
    "changed",
    "clip_config",
    "config",
    "create",
    "families",
    "family_of",
    "from_fields",
    "from_image",
    "image_name",
    "keys_per_query",
    "merge_if_asked",
    "name_of",
    "names",
    "set_merge",
    "tensor_shapes",
    "without_merging",
]
