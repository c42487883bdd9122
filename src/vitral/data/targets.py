"""Targets of examples: what a task teaches, read and stacked for a batch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
            "blend: switch both off with `mixup=0` and `cutmix=0`."
        )


class ClassShares(NamedTuple):
    """Shares of the classes of one example, zeros left out.

    A tuple of all classes an example grows with the square of a data set in which
    every image has a class of its own.
    """

    indices: tuple[int, ...]
    """Classes with a share of their own."""
    values: tuple[float, ...]
    """Their shares."""
    rest: float = 0.0
    """Share of each other class."""

    @classmethod
    def from_weights(cls, weights: Mapping[int, float]) -> "ClassShares":
        """Make the shares of weights by class, in the order of the classes."""
        indices = tuple(sorted(index for index, value in weights.items() if value))
        total = math.fsum(weights.values())
        return cls(indices, tuple(weights[index] / total for index in indices))

    @property
    def top(self) -> int:
        """Return the class with the largest share, the first of equal ones."""
        return self.indices[self.values.index(max(self.values))]

    def smooth(self, amount: float, num_classes: int) -> "ClassShares":
        """Return (1 - amount) · shares + amount / classes."""
        even = amount / num_classes
        values = tuple((1 - amount) * value + even for value in self.values)
        return ClassShares(self.indices, values, (1 - amount) * self.rest + even)

    def write_to(self, row: Float[np.ndarray, "classes"]) -> None:
        """Write the share of every class into a row."""
        row[:] = self.rest
        row[list(self.indices)] = self.values


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
        """Return shares, from `values` where they are `ClassShares`, and labels."""
        shares = np.zeros((len(examples), len(names)), np.float32)
        for row, example, value in zip(shares, examples, values, strict=True):
            if value is not None:
                value.write_to(row)
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
