"""Patch weights for another number of channels than that of the file."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vitral.models import ModelConfig

ChannelInit = Literal["average", "repeat", "zero"]


def is_stem(
    name: str, tensor: Tensor, empty: Tensor, old: ModelConfig, new: ModelConfig
) -> bool:
    """Return whether a tensor differs from the model's by the image's channels only."""
    if old.in_chans == new.in_chans or tensor.ndim != 4 or empty.ndim != 4:
        return False
    same = tensor.shape[0] == empty.shape[0] and tensor.shape[2:] == empty.shape[2:]
    return same and (tensor.shape[1], empty.shape[1]) == (old.in_chans, new.in_chans)


def adapt_channels(
    weight: Float[Tensor, "dim old rows columns"], channels: int, how: ChannelInit
) -> Float[Tensor, "dim new rows columns"]:
    """Return a patch kernel for `channels` channels.

    Args:
        how: "average": each channel has the average of the old ones, times old / new,
            so that a picture whose channels are equal gives the same patches.
            "repeat": channel i has old channel i mod old, times old / new. "zero": the
            first channels keep theirs, further ones have zero, so that they change
            nothing at first.
    """
    old = weight.shape[1]
    if how == "average":
        return weight.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (
            old / channels
        )
    if how == "repeat":
        return weight[:, [i % old for i in range(channels)]] * (old / channels)
    result = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    kept = min(old, channels)
    result[:, :kept] = weight[:, :kept]
    return result
