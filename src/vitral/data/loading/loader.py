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
from vitral.data.dataset import DataSet, Example
from vitral.data.images import EightBit
from vitral.data.loading.batch import (
    Batch,
    Builder,
    Placed,
    Result,
    Sent,
    Task,
    Transform,
)
from vitral.data.loading.repeated_augmentation import Shown, Stages, repeated
from vitral.data.loading.workers import Workers, results_ahead
from vitral.data.rng import keyed_generator
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

    dataset: DataSet
    examples: tuple[Example, ...]
    transform: Transform | Stages
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
        self._crew: tuple[Workers[Result], Tensor | None, tuple[Any, ...]] | None = None
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
        generator = keyed_generator("order", self.seed, epoch)
        return [int(index) for index in generator.permutation(number)]

    def shown(self, epoch: int) -> list[Shown]:
        """The images of one epoch, batch after batch."""
        return repeated(self.order(epoch), epoch, self.batch_size, self.repeats)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from batch `start` on.

        Raises:
            VitralError: a worker died or exceeded `timeout`.
            ConfigError: the transform cannot be sent to the workers.
        """
        for _, batch in self.numbered(number, start):
            yield batch

    def numbered(
        self, number: int, start: int = 0, stride: int = 1
    ) -> Iterator[tuple[int, Batch]]:
        """The batches `start`, `start + stride`, ... of one epoch with their index.

        Several processes that start at their rank, with a stride of their number,
        divide the epoch without building a batch twice.

        Raises:
            VitralError, ConfigError: as `epoch`.
        """
        tasks = self.tasks(number, start, stride)
        for task, result in zip(tasks, self.results(tasks), strict=True):
            if result.batch is not None:
                yield task.index, result.batch

    def tasks(self, number: int, start: int = 0, stride: int = 1) -> list[Task]:
        """What there is to build of one epoch: see `numbered`."""
        shown = self.shown(number)
        return [
            self._task(number, index, shown)
            for index in range(start, len(self), stride)
        ]

    def results(self, tasks: list[Task]) -> Iterator[Result]:
        """What each task gives, built here or by the workers; failures are noted."""
        if self.workers:
            yield from self._results_of_workers(tasks)
            return
        builder = self._builder(tasks, torch.get_num_threads())
        for index in range(len(tasks)):
            yield self._noted(builder[index])

    def _results_of_workers(self, tasks: list[Task]) -> Iterator[Result]:
        crew, slots = self._workers()
        number = 1 if slots is None else len(slots)
        placed = [Placed(task, at % number) for at, task in enumerate(tasks)]
        for (_, at), result in zip(placed, crew.results(placed), strict=True):
            yield self._noted(result.arrived(None if slots is None else slots[at]))

    def _noted(self, result: Result) -> Result:
        self._failures.update(result.failures)
        return result

    def built_here(self, task: Task) -> Batch | None:
        """One batch at once, whatever the workers do; None if nothing is readable."""
        return self._noted(self._builder([task], torch.get_num_threads())[0]).batch

    def _workers(self) -> tuple[Workers[Result], Tensor | None]:
        """Those of the last epoch with their slots; new ones if it was not taken to its
        end, or where this loader has changed since."""
        made_of = (self.dataset, self.mix, self.seed, self.workers, self.timeout)
        if self._crew is not None:
            crew, slots, of = self._crew
            if crew.free and all(a is b for a, b in zip(made_of, of, strict=True)):
                return crew, slots
        workers = min(self.workers, len(self))
        slots = self._slots(results_ahead(workers) + 1)
        crew = Workers(
            Sent(builder=self._builder([]), slots=slots),
            workers=workers,
            timeout=self.timeout,
        )
        self._crew = crew, slots, made_of
        return crew, slots

    def _slots(self, number: int) -> UInt8[Tensor, "slots size"] | None:
        """Shared memory for the 8-bit batches on their way and the one that is read;
        None where they are not of 8 bits."""
        if self.mix is not None or not isinstance(self.transform, EightBit):
            return None
        height, width = self.transform.preprocess.image_size
        size = self.batch_size * 3 * height * width
        return torch.empty(number, size, dtype=torch.uint8).share_memory_()

    def _task(self, epoch: int, index: int, shown: list[Shown]) -> Task:
        images = shown[index * self.batch_size : (index + 1) * self.batch_size]
        transform = self.transform
        if isinstance(transform, Stages):
            transform = transform.at(epoch * len(self) + index)
        return Task(
            epoch=epoch,
            index=index,
            examples=tuple(self.examples[image.place] for image in images),
            numbers=tuple(image.number for image in images),
            transform=transform,
        )

    def _builder(self, tasks: list[Task], threads: int = 1) -> Builder:
        # The examples travel with the tasks: a worker needs no other part of them.
        return Builder(
            dataset=replace(self.dataset, examples=(), ignored=(), bad=(), notes=()),
            mix=self.mix,
            seed=self.seed,
            tasks=tasks,
            threads=threads,
        )
