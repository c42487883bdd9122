"""Batches of one epoch after the other, from any position (epoch, next batch)."""

from collections.abc import Callable, Iterator
from typing import Any

from vitral.errors import ConfigError, DataError
from vitral.training.distributed import RankGroup
from vitral.training.state import LoopState


class BatchStream:
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
        """Return the batch at the position of `state`, and advance it."""
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
        iterator, self._iterator = self._iterator, None
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()

    def _end_epoch(self, state: LoopState) -> None:
        self.close()
        state.epoch, state.batch = state.epoch + 1, 0
