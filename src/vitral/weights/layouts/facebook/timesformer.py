"""Published files of TimeSformer (arXiv 2102.05095): `.pyth`, names after `model.`.

Their attention is space alone, joint or divided. Written files are .safetensors with
their names, to be put under the key `model_state` again.
"""

from dataclasses import replace
from functools import partial

from vitral.data import Preprocess
from vitral.models import AttentionType, ModelConfig, TimeSformerConfig, ViTConfig
from vitral.models.registry import tensor_shapes
from vitral.weights import file_metadata
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import TensorFile, with_names
from vitral.weights.layouts import limits
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.timm import layout
from vitral.weights.mapping import TensorMapping, copy
from vitral.weights.numerics import differences, other_statistics

PREFIX = "model."
RELEASED = "model_state/"
"""Dictionary around the tensors in a published file."""
STEM, TIME = "patch_embed.proj.weight", "time_embed"
FRAMES = 8
"""Frames for a file that does not state them: the released configuration's."""
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
STRUCTURE: tuple[limits.Limit, ...] = (
    ("it is for TimeSformers alone", lambda it: not isinstance(it, TimeSformerConfig)),
    (
        "its attention is space, joint or divided",
        lambda it: it.attention_type not in ("space", "joint", "divided"),
    ),
    (
        "its class token takes no part in the time step",
        lambda it: it.class_token_in == "every_step" and len(it.steps) > 1,
    ),
    (
        "its clips have positions in time",
        lambda it: it.attention_type != "space" and it.time_position == "none",
    ),
    (
        "its positions are learned, one row a patch",
        lambda it: it.position != "learned_1d",
    ),
    limits.CLASS_TOKEN_ROW,
    limits.NO_REGISTERS,
    ("its models look at the class token", lambda it: it.global_pool != "token"),
    limits.PLAIN_MLP,
    limits.NO_LAYER_SCALE,
    limits.NO_QK_NORM,
    limits.NO_TANH,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.NORM_BEFORE_POOL,
    limits.PROJ_BIAS,
)
"""Models that neither the released code nor transformers' has."""
LIMITS: tuple[limits.Limit, ...] = (
    *STRUCTURE,
    limits.SQUARE_TABLES,
)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, after `model.` or not.

    Space attention leaves no trace but the wrapping of the released code: without it,
    the tensors are those of a Vision Transformer.
    """
    file = opened.file
    told = file_metadata.NUM_FRAMES in file.metadata or opened.prefix == RELEASED
    return any(
        f"{at}{STEM}" in file and (f"{at}{TIME}" in file or (told and at))
        for at in ("", PREFIX)
    )


def read(opened: LayoutInput) -> WeightsSource:
    file = opened.file
    if f"{PREFIX}{STEM}" in file:
        inside = [name for name in file.names() if name.startswith(PREFIX)]
        file = with_names(file, {name.removeprefix(PREFIX): name for name in inside})
        opened = replace(opened, file=file)
    attention_type = detect_attention_type(file, TIME, "blocks.0.temporal_fc.weight")
    image = layout.vit_config(opened)
    frames = read_num_frames(opened, TIME)
    config = inflate_config(image, attention_type, frames)
    opened.notes.append(
        "frames as in the released evaluation assumed: shorter side to the size, "
        "bilinear, mean 0.45, deviation 0.225 (models of Something-Something V2 seem "
        "to want blue, green, red)"
    )
    preprocess = Preprocess(
        image_size=config.image_hw,
        resize="crop",
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
    )
    rules = [copy(name) for name in tensor_shapes(config)]
    return opened.source(LAYOUT.title, config, rules, preprocess)


def detect_attention_type(file: TensorFile, time: str, temporal: str) -> AttentionType:
    """Return which of the three attention types has these tensors.

    Args:
        time: the name of the table of time positions.
        temporal: the name of a tensor that only the divided type has.
    """
    if temporal in file:
        return "divided"
    return "joint" if time in file else "space"


def read_num_frames(opened: LayoutInput, time: str) -> int:
    """Return the rows of the table of time positions; the usual number if absent."""
    if time in opened.file:
        return opened.shape(time, 3)[1]
    told = file_metadata.read_count(opened.file, file_metadata.NUM_FRAMES)
    if told is None:
        opened.notes.append(
            f"clips of {FRAMES} frames assumed: with space attention any will do"
        )
    return told or FRAMES


def inflate_config(
    image: ViTConfig, attention_type: AttentionType, num_frames: int
) -> TimeSformerConfig:
    """Return the settings of the published video model of `image`."""
    return TimeSformerConfig(
        **vars(image) | {"position_resize": "nearest", "time_resize": "nearest"},
        num_frames=num_frames,
        attention_type=attention_type,
    )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    return [copy(name, f"{PREFIX}{name}") for name in tensor_shapes(config)]


def make_output(spec: ModelSpec[TimeSformerConfig]) -> LayoutOutput:
    whose = "the released code"
    notes = find_differences(spec.config, whose)
    notes += other_statistics(spec.preprocess, whose, MEAN, STD, "0.45 and 0.225")
    return LayoutOutput(notes=tuple(notes))


def find_differences(config: TimeSformerConfig, whose: str, **known: None) -> list[str]:
    """Return notes on the numbers in which a published code differs from the model."""
    notes = differences(config, whose, resize="nearest", **known)
    if config.time_resize != "nearest" and config.has_time_positions:
        notes.append(
            f"for clips of another length {whose} repeats or skips rows of the time "
            "positions, this model interpolates them: logits differ slightly there"
        )
    return notes


LAYOUT = Layout(
    name="timesformer",
    title="TimeSformer",
    container="safetensors",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=partial(limits.first_reason, LIMITS),
    make_output=make_output,
    class_token_row="with",
)
