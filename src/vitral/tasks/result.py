"""Metric of a split, and its result: a dataclass with a JSON form."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from vitral.data import BadFile, Batch
from vitral.errors import ConfigError, DataError
from vitral.evaluation import Interval
from vitral.evaluation.stored import StoredResult
from vitral.tasks.labels import Labels
from vitral.training.log import NO_MONITOR

FEW_IMAGES = 100
"""Images below which a number, or what is fitted on them, needs a remark."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The number that stands for a result."""

    field: str
    """Name of the number in the JSON of the result."""
    name: str
    """Name for people."""
    value: float | None
    """None where it is undefined."""
    interval: Interval | None = None
    """95 % interval, the field `<field>_interval`; None without one."""
    is_share: bool = True
    """True for a share in 0..1, which is shown in percent."""
    higher_is_better: bool = True

    def require(self) -> tuple[float, Interval]:
        """Return value and interval.

        Raises:
            DataError: the number is undefined on this split.
        """
        if self.value is None or self.interval is None:
            raise DataError(
                f"{self.name} is undefined on this split, which is too small or has "
                "one value only: measure on another one."
            )
        return self.value, self.interval


class Result(StoredResult, ABC):
    """Measurement of a model's answers on one split."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    monitors: ClassVar[tuple[str, ...]] = ()
    """Names of `monitor_values`; empty where a run cannot know them at its start."""
    n: int
    """All examples, unreadable ones included."""
    n_unreadable: int

    @abstractmethod
    def headline(self) -> Headline:
        """Return the number that stands for the result."""

    def scalars(self) -> dict[str, float | int]:
        """Return the scalar metrics that are not None; by default every number."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    def monitor_values(self) -> dict[str, float]:
        """Return the metrics that the training loop logs and chooses by."""
        headline = self.headline()
        return {} if headline.value is None else {headline.field: headline.value}

    @classmethod
    def check_monitor(cls, name: str) -> None:
        """Refuse a name that no evaluation will give.

        Raises:
            ConfigError: `name` is none of `monitors`.
        """
        if cls.monitors and name not in (*cls.monitors, NO_MONITOR):
            raise ConfigError(
                f"`monitor` is {name!r}, which the evaluation does not give: choose "
                f"one of {', '.join(sorted(cls.monitors))}."
            )

    def sentence(self, noun: str) -> str:
        """Return the result in a line for the terminal.

        Args:
            noun: `images` or `clips`.
        """
        headline = self.headline()
        value = "undefined" if headline.value is None else f"{headline.value:.4g}"
        return f"{headline.name} {value} on {self.n} {noun}"

    def lines(self, split: str) -> list[str]:
        """Return further lines for the terminal."""
        return []

    def calibration(self) -> dict[str, Any]:
        """Return what was fitted on val, to be stored with the model."""
        return {}

    def fitted_lines(self) -> list[str]:
        """Return sentences on what was fitted on val, and from how little."""
        return []


class SecondResult(StoredResult, ABC):
    """The same answers measured with other truth."""

    @abstractmethod
    def sentence(self) -> str:
        """Return the result in a line for the terminal."""


class Metric(ABC):
    """Numbers a batch, from which a result is made; outputs are not kept."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.parts: dict[int, Any] = {}
        """Results of `reduce`, by the index of the batch."""

    def update(self, index: int, outputs: Tensor, batch: Batch) -> None:
        """Add batch `index` of the split. The order of batches does not matter."""
        self.parts[index] = self.reduce(outputs, batch)

    def merge(self, others: Iterable["Metric"]) -> None:
        """Add the batches of other ranks."""
        for other in others:
            self.parts |= other.parts

    def in_order(self) -> list[Any]:
        """Return the parts in the order of the split."""
        return [self.parts[index] for index in sorted(self.parts)]

    @abstractmethod
    def reduce(self, outputs: Tensor, batch: Batch) -> Any:
        """Return what the result needs of a batch: small, plain data or arrays."""

    @abstractmethod
    def result(
        self, bad: Sequence[BadFile], *, split: str = "", val: Result | None = None
    ) -> Result:
        """Return the result; files that cannot be read count as the worst answers.

        Args:
            split: name of the split; what is fitted is fitted on `val`.
            val: result on val, with what was fitted there.
        """

    def write(
        self, folder: Path, name: str, result: Result, bad: Sequence[BadFile]
    ) -> None:
        """Write a file with a row an example, or nothing."""
        return
