"""Start a TimeSformer from an image model (arXiv 2102.05095, section 4)."""

import dataclasses
import re

import torch

from vitral.errors import ConfigError
from vitral.models.base import ModelConfig
from vitral.models.timesformer.config import AttentionType, TimeSformerConfig
from vitral.models.timesformer.timesformer import TimeSformer
from vitral.models.vit import ViT, ViTConfig

FC_AND_TIME = re.compile(r"time_embed|blocks\.\d+\.\w+_fc\.(weight|bias)")
STEP_PATTERN = re.compile(r"(blocks\.\d+\.)(?:temporal|width|local)_(norm1|attn)\.")


def image_tensor_name(name: str) -> str | None:
    """Return the image model's tensor for a TimeSformer's; None: it starts at zero.

    Every step gets the norm and attention of the image model's block, as in the
    released code. The maps after all steps but the last, and the time positions, are
    zero: a divided model of equal frames computes what the image model does.
    """
    if FC_AND_TIME.fullmatch(name):
        return None
    return STEP_PATTERN.sub(r"\1\2.", name)


def clip_config(
    image: ViTConfig, num_frames: int, attention_type: AttentionType = "divided"
) -> TimeSformerConfig:
    """Return the settings of a TimeSformer that can start from an image model.

    Raises:
        ConfigError: it is not a plain Vision Transformer, or its positions are not
            added once at the stem.
    """
    if type(image) is not ViTConfig:
        raise ConfigError(
            "A TimeSformer starts from the weights of a plain Vision Transformer: got "
            f"a {type(image).__name__.removesuffix('Config')}."
        )
    fields = {
        field.name: getattr(image, field.name) for field in dataclasses.fields(image)
    }
    return TimeSformerConfig(
        **fields, num_frames=num_frames, attention_type=attention_type
    )


def start_config(image: ModelConfig, requested: ModelConfig) -> ModelConfig:
    """Return the settings of the weights that a requested model starts from.

    An image model starts a TimeSformer of the requested frames and attention; the
    settings of any other model are returned as they are.
    """
    if isinstance(requested, TimeSformerConfig) and type(image) is ViTConfig:
        return clip_config(image, requested.num_frames, requested.attention_type)
    return image


def from_image(
    image_model: ViT, num_frames: int = 8, attention_type: AttentionType = "divided"
) -> TimeSformer:
    """Build a TimeSformer that starts from an image model, its head included.

    Other settings are those of `image_model.config`; `vitral.weights.build` starts one
    of any settings from a file.
    """
    config = clip_config(image_model.config, num_frames, attention_type)
    model, state = TimeSformer(config), image_model.state_dict()
    model.to(next(image_model.parameters()))
    initial = {
        name: torch.zeros_like(tensor)
        if (source := image_tensor_name(name)) is None
        else state[source]
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(initial)
    model.train(image_model.training)
    return model
