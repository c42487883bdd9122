"""Image weights as the start of a model for clips (arXiv 2102.05095, section 4)."""

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
    """`source` itself, or, where it is an image model and `config` one for clips, a
    source in which every step of attention has the image model's tensors.

    Raises:
        ConfigError: that image model can start none.
    """
    image = source.config
    if not isinstance(config, TimeSformerConfig) or not isinstance(image, ViTConfig):
        return source
    if isinstance(image, TimeSformerConfig):
        return source
    own = {rule.ours: rule for rule in source.mappings}
    start = clip_config(image, config.num_frames, config.scheme)
    wanted = {name: image_tensor_name(name) for name in tensor_shapes(config)}
    rules = [
        replace(own[theirs], ours=name)
        for name, theirs in wanted.items()
        if theirs is not None and theirs in own
    ]
    # A head of another width is a new one, which the loader has to see.
    kept = {rule.ours for rule in rules}
    rules += [rule for name, rule in own.items() if name not in kept]
    note = "started from an image model: maps after further steps of attention are zero"
    return replace(
        source, config=start, mappings=tuple(rules), notes=(*source.notes, note)
    )


def resize_time_embed(
    table: Tensor, config: TimeSformerConfig, lines: list[LedgerLine]
) -> Tensor:
    """The time positions for the frames of `config`, with a line for the ledger."""
    method, frames = config.time_resize, config.num_frames
    detail = f"{table.shape[1]} -> {frames} frames, {method}"
    lines.append(LedgerLine("time_embed", "resized", detail))
    return resize_time(table, frames, method)
