"""timm's layout, whose names are native: `.safetensors`, `.pth`, or a model folder.

The model is inferred from the shapes. What they cannot tell (heads, pixel statistics,
pooling) comes from config.json or the caller, or is assumed and noted.
"""

import math
from collections.abc import Mapping
from typing import Any

import vitral.models
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import DeiTConfig, ModelConfig, ResNetConfig, TNTConfig, ViTConfig
from vitral.weights.checkpoint_facts import (
    LayoutInput,
    WeightsSource,
    patches_of,
)
from vitral.weights.layouts import activations, json_fields, tnt
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.problem_type import problem_type_field, read_problem_type
from vitral.weights.layouts.timm import arguments, hybrid, resnet, settings
from vitral.weights.layouts.timm import tnt as timm_tnt
from vitral.weights.mapping import TensorMapping, copy
from vitral.weights.numerics import HALF, IMAGENET_MEAN, IMAGENET_STD, clip_crop

BUILD_FIELDS = ("architecture", "model_args")
"""Fields of config.json from which timm builds the model."""
DROPPED = {
    r"head\.\d+\.": "of the pre-training: a head of several layers",
    r"mask_token$": "of the pre-training only",
    r"decoder": "of the pre-training only",
}


def detect(opened: LayoutInput) -> bool:
    """Return whether these are timm's names of a Vision Transformer, a BiT or a TNT."""
    if resnet.detect(opened) or timm_tnt.detect(opened):
        return True
    stem = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
    others = (
        "time_embed",
        "register_tokens",
        "blocks.0.mlp.w12.weight",
        "decoder_embed.weight",
        "blocks.0.gamma_1",
        "blocks.0.attn.q_bias",
        "patch_embed.norm.weight",
    )
    return all(name in opened.file for name in stem) and not any(
        name in opened.file for name in others
    )


def read(opened: LayoutInput) -> WeightsSource:
    settings.check_config(opened)
    config = _config(opened)
    return opened.source(
        LAYOUT.title,
        config,
        mappings(config),
        read_preprocess(opened, config),
        drop=DROPPED,
        classes=settings.read_labels(opened, config.num_classes),
        extra=read_problem_type(opened),
    )


def _config(opened: LayoutInput) -> ModelConfig:
    if resnet.detect(opened):
        return resnet.read_config(opened)
    if timm_tnt.detect(opened):
        return timm_tnt.read_config(opened)
    if hybrid.detect(opened):
        encoder = vit_config(opened, hybrid.stride(opened))
        return hybrid.read_config(opened, encoder)
    return vit_config(opened)


def vit_config(opened: LayoutInput, cell: int = 1) -> ViTConfig:
    """Infer the settings of a plain Vision Transformer in timm's names.

    Args:
        cell: pixels per side of a cell that patches are cut from: of a hybrid's map.
    """
    file = opened.file
    width, chans, *cells = opened.shape("patch_embed.proj.weight", 4)
    if hybrid.detect(opened):
        chans = hybrid.in_chans(opened)
    patch = [side * cell for side in cells]
    depth = opened.count_blocks(r"blocks\.(\d+)\.")
    fc1 = opened.shape("blocks.0.mlp.fc1.weight", 2)[0]
    # Of SwiGLU, the second layer takes half of the first one's outputs.
    swiglu = fc1 == 2 * opened.shape("blocks.0.mlp.fc2.weight", 2)[1]
    mlp_dim = fc1 // 2 if swiglu else fc1
    registers = opened.shape("reg_token", 3)[1] if "reg_token" in file else 0
    distilled = "dist_token" in file
    prefix = int("cls_token" in file) + int(distilled) + registers
    given = settings.read_arguments(opened, settings.VIT)
    _refuse_perception_encoder(opened)
    if "pos_embed" in file:
        rows = opened.shape("pos_embed", 3)[1]
        bare = given.get("no_embed_class")
        prefixes = (prefix, 0) if bare is None else (0 if bare else prefix,)
        counts = tuple(rows - it for it in prefixes)
        declared = settings.find_grid(opened, given, patch, counts)
        grid = opened.infer_positions("pos_embed", rows, prefixes, declared)
        no_embed_class = rows - math.prod(grid) != prefix
    else:
        sides = [14 * side for side in patch]
        size = settings.read_pretrained(opened).get("input_size", sides)[-2:]
        size = given.get("img_size") or size
        grid, no_embed_class = opened.grid or patches_of(size, patch), False
    actual = {
        "embed_dim": width,
        "depth": depth,
        "in_chans": chans,
        "num_classes": opened.rows("head.bias", 1),
        "class_token": "cls_token" in file,
        "reg_tokens": registers,
        "qkv_bias": "blocks.0.attn.qkv.bias" in file,
        "qk_norm": "blocks.0.attn.q_norm.weight" in file,
        "hidden": fc1,
        "pre_norm": "norm_pre.weight" in file,
    }
    settings.check_arguments(opened, given, actual)
    heads = opened.choose_num_heads(given.get("num_heads"))
    fields: dict[str, Any] = {}
    if distilled:
        # Without classes timm's model has no tensor of either head, and uses both.
        both = "head_dist.weight" in file or "head.weight" not in file
        fields["distillation_head"] = both
    return (DeiTConfig if distilled else ViTConfig)(
        image_size=(grid.rows * patch[0], grid.columns * patch[1]),
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        num_classes=opened.rows("head.bias", 1),
        embed_dim=width,
        depth=depth,
        num_heads=heads or opened.infer_num_heads(width, depth, mlp_dim),
        mlp_dim=mlp_dim,
        mlp="swiglu" if swiglu else "plain",
        class_token="cls_token" in file,
        reg_tokens=registers,
        global_pool=_pool(opened, given, prefix),
        position="learned_1d" if "pos_embed" in file else "none",
        no_embed_class=no_embed_class,
        position_resize="bicubic_antialias",
        qkv_bias="blocks.0.attn.qkv.bias" in file,
        proj_bias="blocks.0.attn.proj.bias" in file,
        qk_norm="blocks.0.attn.q_norm.weight" in file,
        init_values=1e-5 if "blocks.0.ls1.gamma" in file else None,
        act=activations.read_activation(opened, given),
        norm_eps=1e-5 if "norm_pre.weight" in file else 1e-6,
        norm_pre="norm_pre.weight" in file,
        norm_after_pool="fc_norm.weight" in file,
        representation_size=opened.rows("pre_logits.fc.weight"),
        **fields,
    )


def _refuse_perception_encoder(opened: LayoutInput) -> None:
    """Refuse names of which rotary positions, that no tensor shows, are a part."""
    own = ("norm_pre.weight", "cls_token", "attn_pool.latent")
    if all(name in opened.file for name in own):
        raise WeightsError(
            f"{opened.path}: by its names it is a Perception Encoder (norm_pre and "
            "attn_pool with a class token), whose positions are rotary too. vitral's "
            "model of these names has not that. Use timm for it."
        )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    if isinstance(config, TNTConfig):
        return timm_tnt.mappings(config)
    return [copy(name) for name in vitral.models.tensor_shapes(config)]


def make_config_json(spec: ModelSpec[Any]) -> dict[str, Any]:
    """Return timm's fields of config.json; no `architecture` without such a model."""
    config, preprocess = spec.config, spec.preprocess
    content: dict[str, Any] = {}
    model = arguments.find_timm_model(config)
    if model is not None:
        content |= {"architecture": model.architecture, "model_args": model.arguments}
    content |= {
        "num_classes": config.num_classes,
        "num_features": config.pooled_dim,
        "pretrained_cfg": {
            "input_size": [config.in_chans, *preprocess.image_size],
            "fixed_input_size": isinstance(config, TNTConfig),
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_fraction,
            "crop_mode": "squash" if preprocess.resize == "squash" else "center",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": config.num_classes,
            **arguments.first_and_last_layers(config),
        },
    }
    if spec.classes:
        content["label_names"] = list(spec.classes)
    return content


def make_output(spec: ModelSpec[Any]) -> LayoutOutput:
    """Return config.json, and notes for loading the tensors into timm."""
    # timm ignores the problem type; transformers, which opens such folders, reads it.
    problem_type = problem_type_field(spec.extra, spec.config.num_classes)
    return LayoutOutput(
        sidecar_files={"config.json": make_config_json(spec) | problem_type},
        notes=arguments.notes(spec.config),
    )


def read_preprocess(opened: LayoutInput, config: ModelConfig) -> Preprocess:
    """Return the pre-processing of config.json, or the usual one of such weights."""
    notes = opened.notes
    pretrained = settings.read_pretrained(opened)
    if "mean" in pretrained and "std" in pretrained:
        squash = pretrained.get("crop_mode") == "squash"
        return Preprocess.from_dict(
            {
                "image_size": config.image_hw,
                "resize": "squash" if squash else "crop",
                "crop_fraction": float(pretrained.get("crop_pct", 1.0)),
                "interpolation": pretrained.get("interpolation", "bicubic"),
                "antialias": True,
                "mean": json_fields.three(pretrained["mean"]),
                "std": json_fields.three(pretrained["std"]),
            }
        )
    if isinstance(config, ResNetConfig):
        return resnet.default_preprocess(config, notes)
    if isinstance(config, TNTConfig):
        return tnt.default_preprocess(config, notes)
    dino = isinstance(config, ViTConfig) and (
        config.init_values is not None and config.patch_hw == (14, 14)
    )
    wrapped = "/" in opened.prefix
    headless = opened.file.format == "pickle" and not config.num_classes
    facebook = wrapped or headless or isinstance(config, DeiTConfig)
    if isinstance(config, ViTConfig) and config.norm_pre:
        notes.append(
            "images as for CLIP assumed, as the norm before the blocks is CLIP's: the "
            "file does not say"
        )
        return clip_crop(config.image_hw)
    if dino:
        notes.append(
            "pixel mean and deviation of ImageNet assumed, as for DINOv2 (LayerScale "
            "and patches of 14): the file does not say"
        )
    elif facebook:
        notes.append(
            "pixel mean and deviation of ImageNet assumed, as for checkpoints of DeiT, "
            "DINO and MAE: the file does not say"
        )
    else:
        notes.append(
            "pixel mean and deviation of 0.5 assumed, as for the official ViT: the "
            "file does not say"
        )
    imagenet = dino or facebook
    return Preprocess(
        image_size=config.image_hw,
        resize="squash",
        interpolation="bicubic",
        antialias=True,
        mean=IMAGENET_MEAN if imagenet else HALF,
        std=IMAGENET_STD if imagenet else HALF,
    )


def _pool(opened: LayoutInput, given: Mapping[str, Any], prefix: int) -> Any:
    token = "cls_token" in opened.file and "fc_norm.weight" not in opened.file
    pool = given.get("global_pool") or ("token" if token else "avg")
    if "attn_pool.latent" in opened.file:
        pool = "map"
    if given.get("pool_include_prefix") and prefix and pool != "token":
        if pool == "avg" and prefix == 1 and "cls_token" in opened.file:
            return "avg_all"
        raise json_fields.refusal(
            opened.path.with_name("config.json"),
            "model_args.pool_include_prefix",
            True,
            "false: vitral's model pools the class token with the patches by their "
            "mean only, and never registers",
        )
    return pool


LAYOUT = Layout(
    name="timm",
    title="timm",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=lambda config: arguments.unsupported_reason(config),
    make_output=make_output,
    same_names="timm's blocks that normalise after attention, gate in another way or "
    "have another activation",
)
