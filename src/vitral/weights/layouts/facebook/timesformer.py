"""Published files of TimeSformer (arXiv 2102.05095): `.pyth`, names after `model.`.

Their attention is space alone, joint or divided. Written files are .safetensors with
their names, to be put under the key `model_state` again.
"""

import dataclasses
from dataclasses import replace
from typing import Any

from vitral.data import Preprocess
from vitral.models import AttentionType, ModelConfig, TimeSformerConfig, ViTConfig
from vitral.models.registry import tensor_shapes
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import TensorFile, with_names
from vitral.weights.infer_config import require_shape
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.timm import layout
from vitral.weights.mapping import TensorMapping, copy
from vitral.weights.numerics import differences

PREFIX = "model."
STEM, TIME = "patch_embed.proj.weight", "time_embed"
FRAMES = 8
"""Frames for a file that does not state them: the released configuration's."""
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


def detect(opened: LayoutInput) -> bool:
    """Return whether these are the names, after `model.` or not."""
    file = opened.file
    if "vitral" in opened.config_json:
        return False
    return f"{PREFIX}{STEM}" in file or (STEM in file and TIME in file)


def read(opened: LayoutInput) -> WeightsSource:
    notes, file = list(opened.notes), opened.file
    if f"{PREFIX}{STEM}" in file:
        inside = [name for name in file.names() if name.startswith(PREFIX)]
        file = with_names(file, {name.removeprefix(PREFIX): name for name in inside})
    config = read_config(replace(opened, file=file), notes)
    notes.append(
        "frames as in the released evaluation assumed: shorter side to the size, "
        "bilinear, mean 0.45, deviation 0.225 (models of Something-Something V2 seem "
        "to want blue, green, red)"
    )
    return WeightsSource(
        layout=LAYOUT.title,
        file=file,
        config=config,
        mappings=tuple(copy(name) for name in tensor_shapes(config)),
        preprocess=default_preprocess(config),
        notes=tuple(notes),
    )


def read_config(opened: LayoutInput, notes: list[str]) -> TimeSformerConfig:
    """Infer sizes from the shapes; positions are resized as in the released code."""
    attention_type = detect_attention_type(
        opened.file, TIME, "blocks.0.temporal_fc.weight"
    )
    image = layout.vit_config(opened, notes)
    return inflate_config(
        image, attention_type, read_num_frames(opened.file, TIME, notes)
    )


def detect_attention_type(file: TensorFile, time: str, temporal: str) -> AttentionType:
    """Return which of the three attention types has these tensors.

    Args:
        time: the name of the table of time positions.
        temporal: the name of a tensor that only the divided type has.
    """
    if temporal in file:
        return "divided"
    return "joint" if time in file else "space"


def read_num_frames(file: TensorFile, time: str, notes: list[str]) -> int:
    """Return the rows of the table of time positions; the usual number if absent."""
    if time in file:
        return require_shape(file, time, 3)[1]
    notes.append(f"clips of {FRAMES} frames assumed: with space attention any will do")
    return FRAMES


def inflate_config(
    image: ViTConfig, attention_type: AttentionType, num_frames: int
) -> TimeSformerConfig:
    """Return the settings of the published video model of `image`."""
    fields: dict[str, Any] = {
        field.name: getattr(image, field.name) for field in dataclasses.fields(image)
    }
    fields |= {"position_resize": "nearest", "time_resize": "nearest"}
    return TimeSformerConfig(
        **fields, num_frames=num_frames, attention_type=attention_type
    )


def mappings(config: ModelConfig) -> list[TensorMapping]:
    return [copy(name, f"{PREFIX}{name}") for name in tensor_shapes(config)]


def default_preprocess(config: ModelConfig) -> Preprocess:
    """Return the released evaluation's centre crop."""
    return Preprocess(
        image_size=config.image_hw,
        resize="crop",
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
    )


def unsupported_reason(config: ModelConfig) -> str:
    reason = unsupported_structure(config)
    if reason:
        return reason
    assert isinstance(config, TimeSformerConfig)
    square = config.grid.rows == config.grid.columns
    return "" if square else "its position tables are those of square grids"


def unsupported_structure(config: ModelConfig) -> str:
    """Return why neither the released code nor transformers' has such a model."""
    if not isinstance(config, TimeSformerConfig):
        return "it is for TimeSformers alone"
    reasons = {
        "its attention is space, joint or divided": (
            config.attention_type not in ("space", "joint", "divided")
        ),
        "its class token takes no part in the time step": (
            config.class_token_in == "every_step" and len(config.steps) > 1
        ),
        "its clips have positions in time": (
            config.attention_type != "space" and config.time_position == "none"
        ),
        "its positions are learned, one row a patch": config.position != "learned_1d",
        "its models have a class token with a position of its own": (
            not config.class_token or config.no_embed_class
        ),
        "it has no registers": config.reg_tokens > 0,
        "its models look at the class token": config.global_pool != "token",
        "its perceptrons are plain": config.mlp != "plain",
        "it has no LayerScale": config.init_values is not None,
        "it does not normalise queries and keys": config.qk_norm,
        "it has no tanh layer": config.representation_size > 0,
        "its heads together are as wide as the model": (
            config.attention_dim != config.embed_dim
        ),
        "its patches have no norms": config.patch_norm,
        "its final norm comes before pooling": config.norm_after_pool,
        "it has a bias wherever the attention projects": not config.proj_bias,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def make_output(spec: ModelSpec) -> LayoutOutput:
    config, preprocess = spec.config, spec.preprocess
    assert isinstance(config, TimeSformerConfig)
    notes = find_differences(config, "the released code")
    if (preprocess.mean, preprocess.std) != (MEAN, STD):
        notes.append(
            "the released code keeps no pre-processing with its weights and normalises "
            "by 0.45 and 0.225, which are not those of this model"
        )
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
    unsupported_reason=unsupported_reason,
    make_output=make_output,
    class_token_row="with",
)
