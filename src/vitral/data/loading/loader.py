"""Batches whose order is a function of (seed, epoch), for any number of workers.

The randomness of one example belongs to its transform (augment.py), that of mixing to
(seed, epoch, batch); no worker has random state, so 0, 1 or 4 workers give equal bits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitral.data.augmentation import MixConfig
from vitral.data.dataset import Dataset, Example
from vitral.data.images import Uint8Transform
from vitral.data.loading.batch import (
    Batch,
    BatchBuilder,
    BatchRequest,
    BatchResult,
    SlottedRequest,
    Transform,
    WorkerDataset,
)
from vitral.data.loading.repeated_augmentation import (
    SampleRef,
    TransformSchedule,
    repeat_augment,
)
from vitral.data.loading.workers import Workers, prefetch_limit
from vitral.data.rng import generator_for
from vitral.errors import ConfigError


class Failure(NamedTuple):
    """An example that could not be decoded while loading."""

    id: str
    reason: str


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
    """Called with (RGB image, example id, number of the variation)."""
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    """False keeps the order of `examples` in every epoch."""
    repeats: int = 1
    """Variations of an example in one epoch, whose number of batches stays; the epoch
    then shows fewer examples."""
    workers: int = 0
    """Processes that decode; 0 decodes in this one."""
    drop_last: bool = False
    """Leave out a last batch that is not full."""
    mix: MixConfig | None = None
    """Mixup and CutMix; None for neither."""
    timeout: float = 300.0
    """Seconds that workers may take for one batch; 0 waits for ever."""

    def __post_init__(self) -> None:
        self.examples = tuple(self.examples)
        self._failures: dict[str, str] = {}
        self._worker_state: (
            tuple[Workers[BatchResult], Tensor | None, tuple[Any, ...]] | None
        ) = None
        for name, least in (
            ("batch_size", 1),
            ("repeats", 1),
            ("workers", 0),
            ("timeout", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"`{name}` must be at least {least}: got {value}.")
        if len(self) == 0:
            raise ConfigError(
                f"The loader has no batch: {len(self.examples)} example(s), batch_size "
                f"{self.batch_size}, drop_last {self.drop_last}. Check the split, or "
                "lower batch_size."
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        number = len(self.examples) / self.batch_size
        return math.floor(number) if self.drop_last else math.ceil(number)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Examples dropped so far, each once, in the order they were met."""
        return tuple(Failure(name, reason) for name, reason in self._failures.items())

    def order(self, epoch: int) -> list[int]:
        """Indices into `examples` in the order of one epoch, each once."""
        number = len(self.examples)
        if not self.shuffle:
            return list(range(number))
        if self.dataset.order is not None:
            return self.dataset.order(self.examples, self.seed, epoch)
        generator = generator_for("order", self.seed, epoch)
        return [int(index) for index in generator.permutation(number)]

    def epoch_samples(self, epoch: int) -> list[SampleRef]:
        """The images of one epoch, batch after batch."""
        return repeat_augment(self.order(epoch), epoch, self.batch_size, self.repeats)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from batch `start` on.

        Raises:
            VitralError: a worker died or exceeded `timeout`.
            ConfigError: the transform cannot be sent to the workers.
        """
        for _, batch in self.enumerate_batches(epoch, start):
            yield batch

    def enumerate_batches(
        self, epoch: int, start: int = 0, stride: int = 1
    ) -> Iterator[tuple[int, Batch]]:
        """The batches `start`, `start + stride`, ... of one epoch with their index.

        Several processes that start at their rank, with a stride of their number,
        divide the epoch without building a batch twice.

        Raises:
            VitralError, ConfigError: as `epoch`.
        """
        tasks = self.requests(epoch, start, stride)
        for task, result in zip(tasks, self.results(tasks), strict=True):
            if result.batch is not None:
                yield task.index, result.batch

    def requests(
        self, epoch: int, start: int = 0, stride: int = 1
    ) -> list[BatchRequest]:
        """What there is to build of one epoch: see `numbered`."""
        shown = self.epoch_samples(epoch)
        return [
            self._make_request(epoch, index, shown)
            for index in range(start, len(self), stride)
        ]

    def results(self, requests: list[BatchRequest]) -> Iterator[BatchResult]:
        """What each task gives, built here or by the workers; failures are noted."""
        if self.workers:
            yield from self._worker_results(requests)
            return
        builder = self._make_builder(requests, torch.get_num_threads())
        for index in range(len(requests)):
            yield self._record_failures(builder[index])

    def _worker_results(self, requests: list[BatchRequest]) -> Iterator[BatchResult]:
        crew, slots = self._get_workers()
        number = 1 if slots is None else len(slots)
        placed = [SlottedRequest(task, at % number) for at, task in enumerate(requests)]
        for (_, at), result in zip(placed, crew.results(placed), strict=True):
            yield self._record_failures(
                result.attach_images(None if slots is None else slots[at])
            )

    def _record_failures(self, result: BatchResult) -> BatchResult:
        self._failures.update(result.failures)
        return result

    def build_local(self, request: BatchRequest) -> Batch | None:
        """One batch at once, whatever the workers do; None if nothing is readable."""
        return self._record_failures(
            self._make_builder([request], torch.get_num_threads())[0]
        ).batch

    def _get_workers(self) -> tuple[Workers[BatchResult], Tensor | None]:
        """Those of the last epoch with their slots; new ones if it was not taken to its
        end, or where this loader has changed since."""
        made_of = (self.dataset, self.mix, self.seed, self.workers, self.timeout)
        if self._worker_state is not None:
            crew, slots, of = self._worker_state
            if crew.is_free and all(a is b for a, b in zip(made_of, of, strict=True)):
                return crew, slots
        workers = min(self.workers, len(self))
        slots = self._allocate_slots(prefetch_limit(workers) + 1)
        crew = Workers(
            WorkerDataset(builder=self._make_builder([]), slots=slots),
            workers=workers,
            timeout=self.timeout,
        )
        self._worker_state = crew, slots, made_of
        return crew, slots

    def _allocate_slots(self, count: int) -> UInt8[Tensor, "slots size"] | None:
        """Shared memory for the 8-bit batches on their way and the one that is read;
        None where they are not of 8 bits."""
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

    def _make_builder(
        self, requests: list[BatchRequest], threads: int = 1
    ) -> BatchBuilder:
        # The examples travel with the tasks: a worker needs no other part of them.
        return BatchBuilder(
            dataset=replace(self.dataset, examples=(), ignored=(), bad=(), notes=()),
            mix=self.mix,
            seed=self.seed,
            requests=requests,
            threads=threads,
        )
