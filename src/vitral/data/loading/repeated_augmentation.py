"""Repeated augmentation: several variations of an image in a batch (arXiv 1902.05509).

As in DeiT's sampler (arXiv 2012.12877), the number of batches stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vitral.data.loading.batch import Transform


class SampleRef(NamedTuple):
    """Reference to one image of a batch."""

    example_index: int
    draw: int
    """Index of the variation: the transform's randomness is a function of it."""


def repeat_augment(
    order: Sequence[int], epoch: int, batch_size: int, repeats: int
) -> list[SampleRef]:
    """Return the images of an epoch: `repeats` variations each, len(order) in all.

    Each index of `order` is taken `repeats` times in a row, with the draws
    epoch * repeats, + 1, ..., until there are len(order) images. The other indices are
    not shown in this epoch. Within a batch the first variations come first: mixup
    would blend neighbours of one image. They are never neighbours where the batch size
    is a multiple of `repeats` and at least twice as large.
    """
    first = epoch * repeats
    if repeats == 1:
        return [SampleRef(index, first) for index in order]
    images = [
        SampleRef(index, first + repetition)
        for index in order[: -(-len(order) // repeats)]
        for repetition in range(repeats)
    ][: len(order)]
    shown: list[SampleRef] = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        shown += sorted(batch, key=lambda image: image.draw)  # keeps equals in order
    return shown


@dataclass(frozen=True, kw_only=True)
class TransformSchedule:
    """One transform for each of several equal parts of a run, in order."""

    transforms: tuple[Transform, ...]
    batches: int
    """Number of batches in the run."""

    def at(self, position: int) -> Transform:
        """Return the transform of batch `position`, counted from 0 over all epochs."""
        part = position * len(self.transforms) // self.batches
        return self.transforms[min(part, len(self.transforms) - 1)]
