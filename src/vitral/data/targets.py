"""Targets of examples: what a task teaches, read and stacked for a batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitral.data.example import Example
from vitral.errors import ConfigError


class Targets(ABC):
    """Read the targets of a data set's examples, and make a batch's of them.

    Picklable and small: loader workers receive a copy.
    """

    concurrent: ClassVar[bool] = True
    """Threads may call `read` at once."""
    moves: ClassVar[bool] = False
    """True: the geometry of the picture is applied to the target as well."""

    def read(self, example: Example) -> Any:
        """Return the target of one example; called when its batch is built.

        Raises:
            ImageError: its file cannot be decoded; the example is left out.
        """
        return example.target

    @abstractmethod
    def stack(
        self,
        names: tuple[str, ...],
        examples: Sequence[Example],
        values: Sequence[Any],
    ) -> Any:
        """Return the target of a batch.

        A batch is cut by example: the first axis of a tensor is the example; a list or
        a plain tuple has one entry an example, also where that entry is empty; a
        NamedTuple has fields of these kinds.

        Args:
            names: the classes of the data set.
            values: of each example, what `read` returned, moved with the picture.
        """

    def blend(self, target: Any, weight: float) -> Any:
        """Return weight · target + (1 - weight) · the target of the example before.

        Mixup and CutMix call it; the first example follows the last one.

        Raises:
            ConfigError: such targets have no blend.
        """
        raise ConfigError(
            f"Mixup and CutMix blend two targets, and {type(self).__name__} have no "
            "blend: switch both off with `--mixup 0 --cutmix 0`."
        )


class ClassTarget(NamedTuple):
    """Classes of a batch's examples."""

    shares: Float[Tensor, "batch classes"]
    """One-hot, soft or multi-hot; mixed where images are mixed."""
    label: Int[Tensor, "batch"]
    """The class index before any mixing; 0 where an example has none."""


@dataclass(frozen=True)
class ClassTargets(Targets):
    """Make a `ClassTarget` of labels, or of the shares that an example has."""

    def stack(
        self,
        names: tuple[str, ...],
        examples: Sequence[Example],
        values: Sequence[Any],
    ) -> ClassTarget:
        """Return shares, from `values` where they are not None, and labels."""
        shares = np.zeros((len(examples), len(names)), np.float32)
        for row, example, value in zip(shares, examples, values, strict=True):
            if value is not None:
                row[:] = value
            else:
                row[list(example.label)] = 1.0
        label = [example.label[0] if example.label else 0 for example in examples]
        return ClassTarget(torch.from_numpy(shares), torch.tensor(label))

    def blend(self, target: ClassTarget, weight: float) -> ClassTarget:
        """Blend the shares; the label stays that of the example itself."""
        return target._replace(shares=blend_with_previous(target.shares, weight))


def blend_with_previous(
    value: Float[Tensor, "batch ..."], weight: float
) -> Float[Tensor, "batch ..."]:
    """Return weight · value + (1 - weight) · value rolled by one along the batch."""
    if weight == 1:
        return value
    return weight * value + (1 - weight) * value.roll(1, 0)
