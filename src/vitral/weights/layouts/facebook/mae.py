"""Pre-training files of MAE (arXiv 2111.06377), in the layout of the authors' code.

The encoder has timm's names. The decoder, which predicts masked patches, is dropped.
Fine-tuned files have timm's names alone and are read as timm's layout.
"""

from dataclasses import replace
from functools import partial

from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts import limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.timm import layout
from vitral.weights.numerics import differences, imagenet_crop, other_statistics

DECODER = "decoder_embed.weight"
DROPPED = {
    r"decoder_": "the decoder, which draws the hidden patches",
    r"mask_token$": "of the pre-training only: it stands for a hidden patch",
}
LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    (
        "its pre-training files have no head (fine-tuned ones have timm's layout)",
        lambda it: it.num_classes > 0,
    ),
    ("its positions are one row a patch, added at the stem", limits.LEARNED_AT_STEM[1]),
    limits.CLASS_TOKEN_ROW,
    limits.NO_REGISTERS,
    limits.CLASS_TOKEN_FEATURES,
    limits.PLAIN_MLP,
    limits.ALL_BIASES,
    limits.NO_QK_NORM,
    limits.NO_LAYER_SCALE,
    limits.NO_TANH,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.KEY_BIAS,
    (
        "its pre-training files have the final norm before pooling",
        lambda it: it.norm_after_pool,
    ),
    limits.SQUARE_PATCHES,
    ("its grids are square", lambda it: it.grid.rows != it.grid.columns),
    limits.THREE_CHANNELS,
)


def detect(opened: LayoutInput) -> bool:
    """Return whether there is an encoder in timm's names, and a decoder."""
    return DECODER in opened.file and "patch_embed.proj.weight" in opened.file


def read(opened: LayoutInput) -> WeightsSource:
    """Read the encoder, as a model that gives features."""
    config = replace(layout.vit_config(opened), position_resize="bicubic")
    opened.notes.append(
        "the class token is taken as the features, as the authors' linear probe does; "
        "their fine-tuning takes the mean of the patches (`global_pool=avg`, "
        "`norm_after_pool=True`)"
    )
    opened.notes.append(
        "images as in the authors' evaluation assumed: the file does not say"
    )
    preprocess = imagenet_crop(config.image_hw, 224 / 256)
    rules = layout.mappings(config)
    return opened.source(LAYOUT.title, config, rules, preprocess, drop=DROPPED)


def make_output(spec: ModelSpec[ViTConfig]) -> LayoutOutput:
    notes = (
        *differences(spec.config, "the authors' code", resize="bicubic"),
        "the encoder alone: drawing hidden patches, and pre-training on, need the "
        "decoder as well",
        *other_statistics(spec.preprocess, "the authors' code"),
    )
    return LayoutOutput(notes=notes)


LAYOUT = Layout(
    name="mae",
    title="MAE",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=layout.mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    class_token_row="with",
)
