"""Probes of frozen features: settings, input and rows of the result."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from vitral.tasks.features import ExtractedFeatures
from vitral.tasks.result import Headline

SEEDS = 3
"""Draws of examples per few-shot probe."""


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Settings of the protocols; each protocol reads its own."""

    shots: tuple[int, ...] = ()
    """Images per class of `fewshot`; empty for those that every class has."""
    k: int = 20
    """Neighbours of `knn`."""
    seed: int = 0
    """Seed of the first draw of `fewshot`, and of `linear`."""


DEFAULTS = ProbeSettings()


@dataclass(frozen=True, kw_only=True)
class ProbeInput:
    """Features to learn from and to measure on."""

    train: ExtractedFeatures
    test: ExtractedFeatures
    dev: ExtractedFeatures | None = None
    """Features to choose settings on; None without such a split."""


class ProbeRow(ABC):
    """One row of a protocol's table."""

    name: str
    probes: tuple[Any, ...]
    """One result per draw."""

    @abstractmethod
    def headline(self) -> Headline:
        """Return the number that stands for the row."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without a prediction per image."""

    def to_list(self) -> list[dict[str, Any]]:
        """Return the results with every prediction."""
        return [probe.to_dict() for probe in self.probes]
