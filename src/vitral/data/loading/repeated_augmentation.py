"""Which images an epoch shows, and at which part of a run with which transform.

Repeated augmentation: several variations of an image in a batch (arXiv 1902.05509),
as in DeiT's sampler (2012.12877), which leaves the number of batches as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vitral.data.loading.batch import Transform


class SampleRef(NamedTuple):
    """One image of a batch."""

    example_index: int
    """Its index among the examples."""
    draw: int
    """Which variation of it: what the transform draws is a function of this."""


def repeat_augment(
    order: Sequence[int], epoch: int, batch_size: int, repeats: int
) -> list[SampleRef]:
    """The images of an epoch, `repeats` variations of each that has room.

    Each place of `order` is taken `repeats` times in a row, with the numbers
    epoch * repeats, + 1, ..., until there are as many images as `order` has: the others
    are not shown in this epoch. Within a batch the first variations come first, so
    that two of one image are neighbours in no batch whose size is a multiple of
    `repeats` and at least twice as large: mixup would blend it with itself.
    """
    first = epoch * repeats
    if repeats == 1:
        return [SampleRef(place, first) for place in order]
    images = [
        SampleRef(place, first + repetition)
        for place in order[: -(-len(order) // repeats)]
        for repetition in range(repeats)
    ][: len(order)]
    shown: list[SampleRef] = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        shown += sorted(batch, key=lambda image: image.draw)  # keeps equals in order
    return shown


@dataclass(frozen=True, kw_only=True)
class TransformSchedule:
    """A transform for each of several equal parts of a run, in order."""

    transforms: tuple[Transform, ...]
    batches: int
    """Of the whole run."""

    def at(self, position: int) -> Transform:
        """That of the batch at `position`, counted from 0 over all epochs."""
        part = position * len(self.transforms) // self.batches
        return self.transforms[min(part, len(self.transforms) - 1)]
