"""Batches of one epoch after the other, from any position.

The position is (epoch, index of the next batch); what is in the batch at a position is
the caller's to decide, as a function of its own seed.
"""

from collections.abc import Callable, Iterator
from typing import Any

from vitral.errors import ConfigError, DataError
from vitral.training.distributed import RankGroup
from vitral.training.state import LoopState


class BatchStream:
    """The batches of one epoch after the other, from any position."""

    def __init__(
        self,
        batches: Callable[[int, int], Iterator[Any]],
        batches_per_epoch: int,
        ranks: RankGroup | None = None,
    ) -> None:
        if batches_per_epoch < 1:
            raise ConfigError(
                f"`batches_per_epoch` must be at least 1: got {batches_per_epoch}. "
                "The training set is smaller than one batch: lower the batch size."
            )
        self._batches = batches
        self._ranks = ranks or RankGroup()
        self.batches_per_epoch = batches_per_epoch
        self._iterator: Iterator[Any] | None = None

    def next(self, state: LoopState) -> Any:
        """The batch at the state's position, which moves on behind it."""
        while True:
            if state.batch >= self.batches_per_epoch:
                self._end_epoch(state)
            if self._iterator is None:
                own = iter(self._batches(state.epoch, state.batch))
                self._iterator = self._ranks.synchronize(own)
            batch = next(self._iterator, None)
            if batch is not None:
                state.batch += 1
                return batch
            if state.batch == 0:
                raise DataError(
                    f"Epoch {state.epoch} of the training data has no batches: "
                    "see data.json for the files that could not be read."
                )
            self._end_epoch(state)

    def close(self) -> None:
        """Let go of the epoch's iterator and of its workers."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()

    def _end_epoch(self, state: LoopState) -> None:
        self.close()
        state.epoch, state.batch = state.epoch + 1, 0
