"""Models: one module or folder per family, found by name.

`create("vit_b16", num_classes=10)` builds one with fresh weights. Names of timm and
Hugging Face for the same models are accepted.
"""

from vitral.models.base import (
    Family,
    ModelConfig,
    Size2d,
    VisionModel,
    count_parameters,
)
from vitral.models.deit import DeiT, DeiTConfig
from vitral.models.features import Features, Tokens
from vitral.models.hybrid import HybridConfig
from vitral.models.merging import set_merge, set_merge_if_given, without_merging
from vitral.models.registry import (
    build_model,
    config_from_fields,
    create,
    families,
    get_config,
    get_family_name,
    get_model_name,
    names,
    replace_config,
    tensor_shapes,
)
from vitral.models.resnet import ResNetConfig
from vitral.models.timesformer import (
    AttentionType,
    TimeSformer,
    TimeSformerConfig,
    clip_config,
    from_image,
    image_tensor_name,
    keys_per_query,
    start_config,
)
from vitral.models.tnt import TNT, TNTConfig
from vitral.models.vit import IN_ATTENTION, SIZES, MergeSchedule, ViT, ViTConfig

__all__ = [
    "IN_ATTENTION",
    "SIZES",
    "TNT",
    "AttentionType",
    "DeiT",
    "DeiTConfig",
    "Family",
    "Features",
    "HybridConfig",
    "MergeSchedule",
    "ModelConfig",
    "ResNetConfig",
    "Size2d",
    "TNTConfig",
    "TimeSformer",
    "TimeSformerConfig",
    "Tokens",
    "ViT",
    "ViTConfig",
    "VisionModel",
    "build_model",
    "clip_config",
    "config_from_fields",
    "count_parameters",
    "create",
    "families",
    "from_image",
    "get_config",
    "get_family_name",
    "get_model_name",
    "image_tensor_name",
    "keys_per_query",
    "names",
    "replace_config",
    "set_merge",
    "set_merge_if_given",
    "start_config",
    "tensor_shapes",
    "without_merging",
]
