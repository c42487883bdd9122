"""Pre-training files of MAE (arXiv 2111.06377), in the layout of the authors' code.

The encoder has timm's names. The decoder, which predicts masked patches, is dropped.
Fine-tuned files have timm's names alone and are read as timm's layout.
"""

from dataclasses import replace

from vitral.models import ModelConfig, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.infer_config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    drop_reasons,
    imagenet_crop,
)
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.timm import layout
from vitral.weights.mapping import TensorMapping
from vitral.weights.numerics import differences

DECODER = "decoder_embed.weight"
DROPPED = {
    r"decoder_": "the decoder, which draws the hidden patches",
    r"mask_token$": "of the pre-training only: it stands for a hidden patch",
}


def detect(opened: LayoutInput) -> bool:
    """Return whether there is an encoder in timm's names, and a decoder."""
    return (
        DECODER in opened.file
        and "patch_embed.proj.weight" in opened.file
        and "vitral" not in opened.config_json
    )


def read(opened: LayoutInput) -> WeightsSource:
    """Read the encoder, as a model that gives features."""
    notes = list(opened.notes)
    config = replace(layout.vit_config(opened, notes), position_resize="bicubic")
    rules = layout.mappings(config)
    native_names = {rule.ours for rule in rules}
    notes.append(
        "the class token is taken as the features, as the authors' linear probe does; "
        "their fine-tuning takes the mean of the patches (`global_pool=avg`, "
        "`norm_after_pool=True`)"
    )
    notes.append("images as in the authors' evaluation assumed: the file does not say")
    return WeightsSource(
        layout=LAYOUT.title,
        file=opened.file,
        config=config,
        mappings=tuple(rules),
        preprocess=imagenet_crop(config.image_hw, 224 / 256),
        dropped=drop_reasons(opened.file, DROPPED, native_names.__contains__),
        notes=tuple(notes),
    )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    return layout.mappings(config)


def unsupported_reason(config: ModelConfig) -> str:
    if type(config) is not ViTConfig:
        return "it has no such family of models"
    reasons = {
        "its pre-training files have no head (fine-tuned ones have timm's layout)": (
            config.num_classes > 0
        ),
        "its positions are one row a patch, added at the stem": (
            config.position != "learned_1d" or config.position_at != "stem"
        ),
        "its models have a class token with a position of its own": (
            not config.class_token or config.no_embed_class
        ),
        "it has no registers": config.reg_tokens > 0,
        "its features are those of the class token": config.global_pool != "token",
        "its perceptrons are plain": config.mlp != "plain",
        "its attention has biases everywhere": (
            not config.qkv_bias or not config.proj_bias
        ),
        "it does not normalise queries and keys": config.qk_norm,
        "it has no LayerScale": config.init_values is not None,
        "it has no tanh layer": config.representation_size > 0,
        "its heads together are as wide as the model": (
            config.attention_dim != config.embed_dim
        ),
        "its patches have no norms": config.patch_norm,
        "its pre-training files have the final norm before pooling": (
            config.norm_after_pool
        ),
        "its patches are square": config.patch_hw[0] != config.patch_hw[1],
        "its grids are square": config.grid.rows != config.grid.columns,
        "its images have three channels": config.in_chans != 3,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def make_output(spec: ModelSpec) -> LayoutOutput:
    assert isinstance(spec.config, ViTConfig)
    notes = [
        *differences(spec.config, "the authors' code", resize="bicubic"),
        "the encoder alone: drawing hidden patches, and pre-training on, need the "
        "decoder as well",
    ]
    if (spec.preprocess.mean, spec.preprocess.std) != (IMAGENET_MEAN, IMAGENET_STD):
        notes.append(
            "the authors' code keeps no pre-processing with its weights and normalises "
            "by ImageNet's mean and deviation, which are not those of this model"
        )
    return LayoutOutput(notes=tuple(notes))


LAYOUT = Layout(
    name="mae",
    title="MAE",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
