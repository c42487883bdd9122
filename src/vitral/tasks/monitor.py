"""Measurement of a training whose models give no answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitral.data import Dataset, Preprocess
from vitral.models import VisionModel


@dataclass(frozen=True, kw_only=True)
class MonitorContext:
    """Data and settings of all measurements of a run without answers."""

    dataset: Dataset
    preprocess: Preprocess
    batch_size: int
    device: torch.device
    bf16: bool
    max_bad: float
    """Share of a split that may be unreadable, above 1 its number."""


class Monitor(ABC):
    """Measurement of a task whose models give no answers."""

    @abstractmethod
    def evaluate(self, objective: nn.Module, model: VisionModel) -> dict[str, float]:
        """Return metrics on val, during training."""

    @abstractmethod
    def finalize(
        self, objective: nn.Module, model: VisionModel, folder: Path, name: str
    ) -> dict[str, dict[str, Any]]:
        """Write the files of a finished run; return its scalars by split.

        Args:
            name: the objective's.
        """
