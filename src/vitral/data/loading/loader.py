"""Loader of batches whose order is a function of (seed, epoch).

An example is varied as a function of its id (augment.py), a batch is mixed as one of
(seed, epoch, batch). No worker has random state: 0, 1 or 4 workers give equal bits.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitral.data.audit import require_few_unread
from vitral.data.augmentation import MixConfig
from vitral.data.dataset import Dataset
from vitral.data.example import Example
from vitral.data.images import Uint8Transform
from vitral.data.loading.batch import (
    Batch,
    BatchBuilder,
    BatchRequest,
    BatchResult,
)
from vitral.data.loading.transforms import Transform
from vitral.data.loading.workers import Workers, prefetch_limit
from vitral.data.rng import generator_for
from vitral.errors import ConfigError
from vitral.validation import at_least


class Failure(NamedTuple):
    """An example that could not be decoded while loading."""

    id: str
    reason: str


class SampleRef(NamedTuple):
    """Reference to one image of a batch."""

    example_index: int
    draw: int
    """Index of the variation: the transform's randomness is a function of it."""


@dataclass(frozen=True, kw_only=True)
class TransformSchedule:
    """One transform for each of several equal parts of a run, in order."""

    transforms: tuple[Transform, ...]
    batches: int
    """Number of batches in the run."""

    def at(self, position: int) -> Transform:
        """Return the transform of batch `position`, counted from 0 over all epochs."""
        part = position * len(self.transforms) // self.batches
        return self.transforms[min(part, len(self.transforms) - 1)]


@dataclass(kw_only=True)
class Loader:
    """Iterate over examples of a data set in batches.

    An example whose file cannot be decoded is dropped from its batch and listed in
    `failures`; no other example takes its place, and a batch that loses all its
    examples is skipped.
    """

    dataset: Dataset
    examples: tuple[Example, ...]
    transform: Transform | TransformSchedule
    """Called with (RGB image, example id, index of the variation)."""
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    """False keeps the order of `examples` in every epoch."""
    repeats: int = 1
    """Variations of an example in one epoch. The number of batches stays, so an epoch
    shows fewer examples."""
    workers: int = 0
    """Number of processes that decode. 0: decode in this process."""
    drop_last: bool = False
    """Drop a last batch that is not full."""
    mix: MixConfig | None = None
    """Mixup and CutMix. None: neither."""
    max_bad: float = 1.0
    """Share of the examples that may be dropped, above 1 their number."""
    timeout: float = 300.0
    """Seconds that workers may take for one batch. 0: no limit."""

    def __post_init__(self) -> None:
        self.examples = tuple(self.examples)
        self._failures: dict[str, str] = {}
        self._worker_state: (
            tuple[Workers[BatchResult], Tensor | None, tuple[Any, ...]] | None
        ) = None
        at_least(1, batch_size=self.batch_size, repeats=self.repeats)
        at_least(0, workers=self.workers, timeout=self.timeout)
        if len(self) == 0:
            raise ConfigError(
                f"The loader has no batch: {len(self.examples)} example(s), batch_size "
                f"{self.batch_size}, drop_last {self.drop_last}. Check the split, or "
                "lower batch_size."
            )

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        batches = len(self.examples) / self.batch_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Return the examples dropped so far, each once, in the order of loading."""
        return tuple(Failure(name, reason) for name, reason in self._failures.items())

    def order(self, epoch: int) -> list[int]:
        """Return the indices into `examples` in the order of one epoch, each once."""
        count = len(self.examples)
        if not self.shuffle:
            return list(range(count))
        if self.dataset.order is not None:
            return self.dataset.order(self.examples, self.seed, epoch)
        generator = generator_for("order", self.seed, epoch)
        return [int(index) for index in generator.permutation(count)]

    def epoch_samples(self, epoch: int) -> list[SampleRef]:
        """Return the images of one epoch, batch after batch."""
        return repeat_augment(self.order(epoch), epoch, self.batch_size, self.repeats)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from batch `start` on.

        Raises:
            VitralError: a worker died or exceeded `timeout`.
            DataError: more than `max_bad` of the examples cannot be decoded.
            ConfigError: the transform cannot be sent to the workers.
        """
        for _, batch in self.enumerate_batches(epoch, start):
            yield batch

    def enumerate_batches(
        self, epoch: int, start: int = 0, stride: int = 1
    ) -> Iterator[tuple[int, Batch]]:
        """Yield batches `start`, `start + stride`, ... of one epoch with their index.

        With start = rank and stride = world_size, processes divide an epoch without
        building a batch twice.
        """
        requests = self.requests(epoch, start, stride)
        for request, result in zip(requests, self.results(requests), strict=True):
            if result.batch is not None:
                yield request.index, result.batch

    def slices(
        self, epoch: int, start: int, get_rows: Callable[[int], range]
    ) -> Iterator[tuple[int, Batch | None, Callable[[], Batch | None]]]:
        """Yield, of each batch, its size, some rows, and a builder of the full batch.

        The rows equal those of the full batch bit for bit; they are None if one of
        them cannot be read.

        Args:
            get_rows: returns the rows to build of a batch of a given size.
        """
        requests = self.requests(epoch, start)
        slices = [item.slice_rows(get_rows(len(item.examples))) for item in requests]
        for request, result in zip(requests, self.results(slices), strict=True):
            # The readable rows of a full batch do not tell which are missing.
            rows = None if result.failures else result.batch
            yield len(request.examples), rows, partial(self._build_local, request)

    def requests(
        self, epoch: int, start: int = 0, stride: int = 1
    ) -> list[BatchRequest]:
        """Return the batches of `enumerate_batches`, to be built."""
        samples = self.epoch_samples(epoch)
        return [
            self._make_request(epoch, index, samples)
            for index in range(start, len(self), stride)
        ]

    def results(self, requests: list[BatchRequest]) -> Iterator[BatchResult]:
        """Build each request, here or in the workers, and record the failures."""
        if self.workers:
            yield from self._worker_results(requests)
            return
        builder = self._make_builder(threads=torch.get_num_threads())
        for request in requests:
            yield self._record_failures(builder.build(request))

    def _worker_results(self, requests: list[BatchRequest]) -> Iterator[BatchResult]:
        workers, slots = self._get_workers()
        count = 1 if slots is None else len(slots)
        tasks = [(request, i % count) for i, request in enumerate(requests)]
        for (request, i), result in zip(tasks, workers.results(tasks), strict=True):
            slot = None if slots is None else slots[i]
            yield self._record_failures(result.attach_images(request.transform, slot))

    def _record_failures(self, result: BatchResult) -> BatchResult:
        self._failures.update(result.failures)
        require_few_unread(self.failures, len(self.examples), self.max_bad)
        return result

    def _build_local(self, request: BatchRequest) -> Batch | None:
        builder = self._make_builder(threads=torch.get_num_threads())
        return self._record_failures(builder.build(request)).batch

    def _get_workers(self) -> tuple[Workers[BatchResult], Tensor | None]:
        """Return the workers and slots of the last epoch, if they can be used again.

        New ones start if that epoch was not read to its end or the loader changed.
        """
        key = (self.dataset, self.mix, self.seed, self.workers, self.timeout)
        if self._worker_state is not None:
            workers, slots, last = self._worker_state
            if workers.is_free and all(a is b for a, b in zip(key, last, strict=True)):
                return workers, slots
        count = min(self.workers, len(self))
        slots = self._allocate_slots(prefetch_limit(count) + 1)
        workers = Workers(
            self._make_builder(slots=slots), workers=count, timeout=self.timeout
        )
        self._worker_state = workers, slots, key
        return workers, slots

    def _allocate_slots(self, count: int) -> UInt8[Tensor, "slots size"] | None:
        """Allocate shared memory for `count` 8-bit batches; None for other batches."""
        if self.mix is not None or not isinstance(self.transform, Uint8Transform):
            return None
        height, width = self.transform.preprocess.image_size
        size = self.batch_size * 3 * height * width
        return torch.empty(count, size, dtype=torch.uint8).share_memory_()

    def _make_request(
        self, epoch: int, index: int, samples: list[SampleRef]
    ) -> BatchRequest:
        images = samples[index * self.batch_size : (index + 1) * self.batch_size]
        transform = self.transform
        if isinstance(transform, TransformSchedule):
            transform = transform.at(epoch * len(self) + index)
        return BatchRequest(
            epoch=epoch,
            index=index,
            examples=tuple(self.examples[image.example_index] for image in images),
            draws=tuple(image.draw for image in images),
            transform=transform,
        )

    def _make_builder(self, **settings: Any) -> BatchBuilder:
        # A request carries its examples: a worker needs no others.
        return BatchBuilder(
            dataset=replace(self.dataset, examples=(), ignored=(), bad=(), notes=()),
            mix=self.mix,
            seed=self.seed,
            **settings,
        )


def repeat_augment(
    order: Sequence[int], epoch: int, batch_size: int, repeats: int
) -> list[SampleRef]:
    """Return the images of an epoch: `repeats` variations each (arXiv 1902.05509).

    Each index of `order` is taken `repeats` times in a row, with the draws
    epoch * repeats, + 1, ..., until there are len(order) images. The other indices are
    not shown in this epoch; as in DeiT's sampler (arXiv 2012.12877), the number of
    batches stays. Within a batch the first variations come first: mixup would blend
    neighbours of one image. They are never neighbours where the batch size is a
    multiple of `repeats` and at least twice as large.
    """
    first = epoch * repeats
    if repeats == 1:
        return [SampleRef(index, first) for index in order]
    images = [
        SampleRef(index, first + repetition)
        for index in order[: -(-len(order) // repeats)]
        for repetition in range(repeats)
    ][: len(order)]
    shown: list[SampleRef] = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        shown += sorted(batch, key=lambda image: image.draw)  # keeps equals in order
    return shown
