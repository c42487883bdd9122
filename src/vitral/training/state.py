"""State of the loop: all that it needs to resume but tensors, as plain JSON."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from vitral.errors import WeightsError


@dataclass(kw_only=True)
class LoopState:
    """The mutable position of a run; every field goes to `state.json`."""

    step: int = 0
    """Updates made."""
    epoch: int = 0
    """The epoch the next batch is in."""
    batch: int = 0
    """The index of the next batch in its epoch."""
    ids: str = ""
    """SHA-256 of the one before and of the ids of the last batch: what was trained on,
    and in which order, from the first step on."""
    evaluated: int = 0
    """The step of the last evaluation; 0 before the first."""
    best_step: int | None = None
    best_metric: float | None = None
    waiting: int = 0
    """Evaluations since the best one."""
    stopped_early: bool = False
    window_steps: int = 0
    """Updates since the last logged one, and the sums of their metrics."""
    window_sums: dict[str, float] = field(default_factory=dict)

    def record_ids(self, ids: Iterable[str]) -> None:
        text = "\n".join((self.ids, *ids))
        self.ids = hashlib.sha256(text.encode()).hexdigest()

    def add_metrics(self, metrics: dict[str, float]) -> None:
        self.window_steps += 1
        for name, value in metrics.items():
            self.window_sums[name] = self.window_sums.get(name, 0.0) + value

    def pop_window_means(self) -> dict[str, float]:
        """Return the window's means, and start the next window."""
        count = self.window_steps
        means = {name: total / count for name, total in self.window_sums.items()}
        self.window_steps, self.window_sums = 0, {}
        return means

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LoopState":
        """Read `to_dict`."""
        try:
            return cls(**values)
        except TypeError as error:
            raise WeightsError(
                f"state.json of the checkpoint does not fit this version: {error}. "
                "Resume with the version that wrote it."
            ) from error
