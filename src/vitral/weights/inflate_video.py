"""Start a video model from image weights (arXiv 2102.05095, section 4)."""

from dataclasses import replace

from torch import Tensor

from vitral.layers import resize_time
from vitral.models import (
    ModelConfig,
    TimeSformerConfig,
    ViTConfig,
    clip_config,
    image_tensor_name,
    tensor_shapes,
)
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.ledger import LedgerLine


def inflate(source: WeightsSource, config: ModelConfig) -> WeightsSource:
    """Return `source`, inflated if it is an image model and `config` one for clips.

    In the inflated source every step of attention has the image model's tensors.
    """
    image = source.config
    if not isinstance(config, TimeSformerConfig) or not isinstance(image, ViTConfig):
        return source
    if isinstance(image, TimeSformerConfig):
        return source
    by_name = source.by_name()
    start = clip_config(image, config.num_frames, config.attention_type)
    image_names = {name: image_tensor_name(name) for name in tensor_shapes(config)}
    rules = [
        replace(by_name[theirs], ours=name)
        for name, theirs in image_names.items()
        if theirs is not None and theirs in by_name
    ]
    # The loader must see a head of another width, to make a new one.
    mapped = {rule.ours for rule in rules}
    rules += [rule for name, rule in by_name.items() if name not in mapped]
    note = "started from an image model: maps after further steps of attention are zero"
    return replace(
        source, config=start, mappings=tuple(rules), notes=(*source.notes, note)
    )


def resize_time_embed(
    table: Tensor, config: TimeSformerConfig, lines: list[LedgerLine]
) -> Tensor:
    """Return the time positions for the frames of `config`, and add a ledger line."""
    method, frames = config.time_resize, config.num_frames
    detail = f"{table.shape[1]} -> {frames} frames, {method}"
    lines.append(LedgerLine("time_embed", "resized", detail))
    return resize_time(table, frames, method)
