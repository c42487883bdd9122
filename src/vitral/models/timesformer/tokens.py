"""Token indices of a clip, and the groups of each attention step; for inspection.

The groups are those of `group_tokens`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from vitral.layers import Extent, group_tokens
from vitral.layers.space_time_attention import GROUP_AXES
from vitral.models.timesformer.config import SpaceTimeStep, TimeSformerConfig


@dataclass(frozen=True, slots=True)
class TokenIndices:
    """Indices of tokens within the sequence that runs through the blocks."""

    class_tokens: Int[Tensor, " copies"]
    """One; with `space` one for each frame, and the head reads their mean."""
    patches: Int[Tensor, "frames rows columns"]
    members: tuple[Int[Tensor, "_ _"], ...]
    """Tokens of each sequence of each attention step, in its order. A prefix token is
    in every group: each has a copy, and the token moves by the mean of the copies'
    updates."""

    @property
    def num_tokens(self) -> int:
        return self.members[-1].unique().numel()

    def get_layer_members(self, layer: int) -> Int[Tensor, "groups line"]:
        """Return the members of a layer of attention, counted through all blocks."""
        return self.members[layer % len(self.members)]


def token_indices(config: TimeSformerConfig, extent: Extent) -> TokenIndices:
    """Return the token indices of a clip of this extent."""
    prefix = config.num_prefix_tokens
    frames, patches = extent.frames, extent.rows * extent.columns
    copies = frames if config.attention_type == "space" else 1
    # float64, because `group_tokens` is made for tokens; integers are exact in it.
    index = torch.arange(copies * prefix + frames * patches, dtype=torch.float64)
    sequences = index.reshape(copies, prefix + frames * patches // copies)
    return TokenIndices(
        class_tokens=sequences[:, 0].long(),
        patches=sequences[:, prefix:].reshape(tuple(extent)).long(),
        members=tuple(_members(config, step, index, extent) for step in config.steps),
    )


def _members(
    config: TimeSformerConfig, step: SpaceTimeStep, index: Tensor, extent: Extent
) -> Int[Tensor, "groups line"]:
    prefix = config.num_step_prefix_tokens(step)
    if config.attention_type == "space":
        return index.reshape(extent.frames, -1).long()
    tokens = index[config.num_prefix_tokens - prefix :]
    if step.kind not in GROUP_AXES:
        return tokens[None].long()
    return (
        group_tokens(tokens[None, :, None], prefix, extent, step.kind).x[..., 0].long()
    )
