"""timm's model name and arguments for a config.

timm builds a model from an architecture's name and changes to its arguments. Both must
give exactly the same function.
"""

from dataclasses import dataclass
from typing import Any

from vitral.layers import ResizeMethod
from vitral.models import (
    DeiTConfig,
    HybridConfig,
    ModelConfig,
    ResNetConfig,
    TNTConfig,
    ViTConfig,
)
from vitral.weights.layouts import limits, resnet_shapes
from vitral.weights.layouts.timm import hybrid, resnet, settings, tnt
from vitral.weights.layouts.tnt import NORM_EPS as TNT_NORM_EPS
from vitral.weights.numerics import differences

CLIP_NORM_EPS = 1e-5
NORM_EPS = 1e-6
"""Epsilon of every LayerNorm in timm's Vision Transformer."""
ENCODER_LIMITS: tuple[limits.Limit, ...] = (
    limits.LEARNED_AT_STEM,
    ("it pools one way only", lambda it: it.global_pool == "token_avg"),
    limits.NO_TANH_BEFORE_HEAD,
    (
        "its registers have positions like the class token",
        lambda it: it.no_embed_reg and it.reg_tokens > 0,
    ),
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.PROJ_BIAS,
    limits.KEY_BIAS,
    (
        "its models of these names, with a norm before the blocks, a class token and "
        "pooling by attention, have rotary positions",
        lambda it: it.norm_pre and it.class_token and it.global_pool == "map",
    ),
    limits.LAYER_NORM,
    limits.NO_MLP_NORM,
)
DEIT_LIMITS: tuple[limits.Limit, ...] = (
    limits.NO_NORM_PRE,
    (
        "its DeiT has a head for the distillation token",
        lambda it: not it.distillation_head,
    ),
    ("its DeiT has no registers", lambda it: it.reg_tokens > 0),
    (
        "its DeiT has a position for each of its two tokens",
        lambda it: it.no_embed_class,
    ),
)


@dataclass(frozen=True, slots=True)
class TimmModel:
    """A call of timm's `create_model`."""

    architecture: str
    arguments: dict[str, Any]


def find_timm_model(config: ModelConfig) -> TimmModel | None:
    """Return timm's name and arguments for exactly this function, or None."""
    if unsupported_reason(config) or numerics(config):
        return None
    if isinstance(config, ResNetConfig):
        call = resnet.find_timm_model(config)
        return None if call is None else TimmModel(*call)
    if isinstance(config, HybridConfig):
        if config.mlp == "swiglu":
            return None
        call = hybrid.find_timm_model(config)
        if call is None:
            return None
        return TimmModel(call[0], {**vit_arguments(config), **call[1]})
    if isinstance(config, TNTConfig):
        return TimmModel(*tnt.find_timm_model(config))
    assert isinstance(config, ViTConfig)
    # Any of timm's plain models: the arguments override each of its sizes.
    name = "vit_base_patch16_224"
    if config.mlp == "swiglu":
        # JSON cannot name a gated perceptron, so an architecture that has one does.
        deit = isinstance(config, DeiTConfig)
        if deit or config.global_pool == "map" or config.norm_pre:
            return None
        name = "vit_giant_patch14_dinov2"
    elif isinstance(config, DeiTConfig):
        name = "deit_base_distilled_patch16_224"
    elif config.norm_pre:
        name = "vit_base_patch16_clip_224"
    return TimmModel(name, vit_arguments(config))


def unsupported_reason(config: ModelConfig) -> str:
    """Return why timm's code cannot be this model, epsilons aside; empty if it can."""
    return limits.first_reason(_limits(config), config)


def _limits(config: ModelConfig) -> tuple[limits.Limit, ...]:
    if isinstance(config, TNTConfig):
        return tnt.LIMITS
    if isinstance(config, ResNetConfig):
        return *resnet_shapes.structure_limits("fixed"), resnet_shapes.ROUNDS_WIDTHS
    if isinstance(config, HybridConfig):
        backbone = resnet_shapes.structure_limits("same")
        return *backbone, resnet_shapes.ROUNDS_WIDTHS, *ENCODER_LIMITS
    deit = DEIT_LIMITS if isinstance(config, DeiTConfig) else ()
    return limits.VIT_OR_DEIT, *ENCODER_LIMITS, *deit


def numerics(config: ModelConfig) -> tuple[str, ...]:
    """Return notes on the numbers in which timm's code differs from the model."""
    notes: tuple[str, ...] = ()
    if isinstance(config, TNTConfig):
        return tuple(differences(config, "timm", norm_eps=TNT_NORM_EPS))
    if isinstance(config, HybridConfig | ResNetConfig):
        notes = resnet_shapes.differences(config, resnet.NUMERICS, "timm")
    if isinstance(config, ViTConfig):
        notes += tuple(
            differences(config, "timm", act=None, norm_eps=_norm_eps(config))
        )
    return notes


def _norm_eps(config: ViTConfig) -> float:
    return CLIP_NORM_EPS if config.norm_pre else NORM_EPS


def notes(config: ModelConfig) -> tuple[str, ...]:
    """Return notes for loading the tensors into timm."""
    differing = numerics(config)
    if isinstance(config, ViTConfig):
        resize: ResizeMethod = "bicubic_antialias"
        differing += tuple(
            differences(config, "timm", act=None, norm_eps=None, resize=resize)
        )
    differing = tuple(dict.fromkeys(differing))
    if differing or unsupported_reason(config) or find_timm_model(config) is not None:
        return differing
    return (
        "timm's create_model makes no model of these sizes: its class must be built by "
        "hand to take the tensors",
    )


def vit_arguments(config: ViTConfig) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer."""
    swiglu, everything = config.mlp == "swiglu", config.global_pool == "avg_all"
    hidden = config.mlp_dim * (2 if swiglu else 1)
    arguments: dict[str, Any] = {
        "img_size": list(config.image_hw),
        "patch_size": list(config.patch_hw),
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": settings.mlp_ratio(hidden, config.embed_dim),
        "class_token": config.class_token,
        "reg_tokens": config.reg_tokens,
        "no_embed_class": config.no_embed_class,
        "global_pool": "avg" if everything else config.global_pool,
        "fc_norm": config.norm_after_pool,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": config.init_values,
        "in_chans": config.in_chans,
        "dynamic_img_size": True,
    }
    if everything:
        arguments["pool_include_prefix"] = True
    if config.act != "gelu" and not swiglu:
        arguments["act_layer"] = config.act
    if config.norm_pre:
        arguments["pre_norm"] = True
    return arguments


def first_and_last_layers(config: ModelConfig) -> dict[str, Any]:
    """Return the names of the first and last layers, which timm replaces on request."""
    if isinstance(config, ResNetConfig):
        return {"first_conv": "stem.conv", "classifier": "head.fc"}
    if isinstance(config, HybridConfig):
        first = hybrid.first_conv(config)
        return {"first_conv": first, "classifier": "head"}
    if isinstance(config, TNTConfig):
        return {"first_conv": tnt.FIRST_CONV, "classifier": "head"}
    heads = ["head", "head_dist"] if isinstance(config, DeiTConfig) else "head"
    return {"first_conv": "patch_embed.proj", "classifier": heads}
