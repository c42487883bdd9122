"""Where the tokens of a clip are, and which of them each step lets see each other.

For looking only: what is said here of places, `grouped` does with tokens.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vitral.layers import Extent, group_tokens
from vitral.layers.space_time_attention import GROUP_AXES
from vitral.models.timesformer.config import SpaceTimeStep, TimeSformerConfig


class TokenIndices(NamedTuple):
    """Numbers of tokens within the sequence that runs through the blocks."""

    class_tokens: Int[Tensor, " copies"]
    """One; with `space` one for each frame, and the head reads their mean."""
    patches: Int[Tensor, "frames rows columns"]
    members: tuple[Int[Tensor, "groups line"], ...]
    """For each step of a block, the tokens of each sequence that it attends along, in
    its order. A prefix token is in every group: each has a copy of it, and the token
    moves by the mean of what the copies get."""

    @property
    def num_tokens(self) -> int:
        return self.members[-1].unique().numel()

    def get_layer_members(self, layer: int) -> Int[Tensor, "groups line"]:
        """The members of a layer of attention, counted through all blocks."""
        return self.members[layer % len(self.members)]


def token_indices(config: TimeSformerConfig, extent: Extent) -> TokenIndices:
    """The places in a clip of this extent."""
    before = config.num_prefix_tokens
    frames, patches = extent.frames, extent.rows * extent.columns
    copies = frames if config.scheme == "space" else 1
    # In float64, because `grouped` is made for tokens; whole numbers are exact in it.
    index = torch.arange(copies * before + frames * patches, dtype=torch.float64)
    sequences = index.reshape(copies, before + frames * patches // copies)
    return TokenIndices(
        class_tokens=sequences[:, 0].long(),
        patches=sequences[:, before:].reshape(tuple(extent)).long(),
        members=tuple(_members(config, step, index, extent) for step in config.steps),
    )


def _members(
    config: TimeSformerConfig, step: SpaceTimeStep, index: Tensor, extent: Extent
) -> Int[Tensor, "groups line"]:
    before = config.num_step_prefix_tokens(step)
    if config.scheme == "space":
        return index.reshape(extent.frames, -1).long()
    own = index[config.num_prefix_tokens - before :]
    if step.kind not in GROUP_AXES:
        return own[None].long()
    return group_tokens(own[None, :, None], before, extent, step.kind).x[..., 0].long()
