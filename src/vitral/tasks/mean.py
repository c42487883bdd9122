"""Mean of one number per picture, with its interval: all that a small task needs."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from vitral.data import BadFile, Batch
from vitral.errors import DataError
from vitral.evaluation import Interval
from vitral.evaluation.intervals import mean_interval
from vitral.tasks.result import Headline, Metric, Result


@dataclass(frozen=True, kw_only=True)
class MeanResult(Result):
    """Mean of one number per example."""

    KIND = "mean"

    n: int
    n_unreadable: int
    measure: str
    """Name of the number."""
    value: float
    value_interval: Interval
    """95 %, by a bootstrap over the examples."""
    higher_is_better: bool

    def headline(self) -> Headline:
        """Return the mean."""
        return Headline(
            field="value",
            name=self.measure,
            value=self.value,
            interval=self.value_interval,
            is_share=False,
            higher_is_better=self.higher_is_better,
        )

    def monitor_values(self) -> dict[str, float]:
        """Return the mean by the name of the measure."""
        return {self.measure: self.value}


class MeanMetric(Metric):
    """One number per example; a subclass names it and computes it."""

    measure: ClassVar[str]
    """Name of the number, also for the training's monitor."""
    unreadable: ClassVar[float] = 0.0
    """Number of an example that cannot be read: the worst one."""
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def score(self, outputs: Tensor, target: object) -> Sequence[float]:
        """Return the number of each example of a batch."""

    def reduce(self, outputs: Tensor, batch: Batch) -> list[float]:
        """Return the numbers of a batch."""
        return [float(value) for value in self.score(outputs, batch.target)]

    def result(
        self, bad: Sequence[BadFile], *, split: str = "", val: Result | None = None
    ) -> MeanResult:
        """Return the mean over all examples.

        Raises:
            DataError: there is none.
        """
        values = [value for part in self.in_order() for value in part]
        numbers = np.array(values + [self.unreadable] * len(bad))
        if not len(numbers):
            raise DataError("there are no examples to evaluate: the split is empty.")
        return MeanResult(
            n=len(numbers),
            n_unreadable=len(bad),
            measure=self.measure,
            value=float(numbers.mean()),
            value_interval=mean_interval(numbers),
            higher_is_better=self.higher_is_better,
        )
