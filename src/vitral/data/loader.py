"""Batches whose order is a function of (seed, epoch), for any number of workers.

The randomness of one example belongs to its transform (augment.py), that of mixing to
(seed, epoch, batch); no worker has random state, so 0, 1 or 4 workers give equal bits.
"""

import math
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitral.data.dataset import DataSet, Example
from vitral.data.keyed import keyed_generator
from vitral.data.mix import MixConfig, mix
from vitral.data.preprocess import Preprocess
from vitral.errors import ConfigError, ImageError, VitralError

Transform = Callable[[Image.Image, str, int], Tensor]


_POLL_SECONDS = 3.0
# The slow imports by name too: a Python 3.11 server does not inherit sys.path, and
# passes over a vitral that is found through it alone.
_PRELOAD = ["torch.utils.data", "torchvision.transforms.v2", "vitral.data.loader"]


class Batch(NamedTuple):
    """Images with their targets; the first axis is the batch everywhere."""

    image: (
        Float[Tensor, "batch channels height width"] | Float[Tensor, "batch tokens dim"]
    )
    target: Float[Tensor, "batch classes"]
    """One-hot, soft or multi-hot; mixed where images are mixed."""
    label: Int[Tensor, "batch"]
    """The class index before any mixing."""
    id: tuple[str, ...]


class Failure(NamedTuple):
    """An example that could not be decoded while loading."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The transform of evaluation: the preprocess, without any randomness."""

    preprocess: Preprocess

    def __call__(
        self, image: Image.Image, example_id: str, epoch: int
    ) -> Float[Tensor, "3 height width"]:
        return self.preprocess(image)


@dataclass(kw_only=True)
class Loader:
    """Iterate over examples of a data set in batches.

    An example whose file cannot be decoded is dropped from its batch and listed in
    `failures`; no other example takes its place, and a batch that loses all its
    examples is skipped.
    """

    dataset: DataSet
    examples: tuple[Example, ...]
    transform: Transform
    """Called with (RGB image, example id, epoch)."""
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    """False keeps the order of `examples` in every epoch."""
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
        for name, least in (("batch_size", 1), ("workers", 0), ("timeout", 0)):
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
        """Indices into `examples` in the order of one epoch."""
        number = len(self.examples)
        if not self.shuffle:
            return list(range(number))
        generator = keyed_generator("order", self.seed, epoch)
        return [int(index) for index in generator.permutation(number)]

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from batch `start` on.

        Raises:
            VitralError: a worker died or exceeded `timeout`.
            ConfigError: the transform cannot be sent to the workers.
        """
        order = self.order(number)
        tasks = [
            _Task(
                epoch=number,
                index=index,
                examples=tuple(
                    self.examples[place]
                    for place in order[
                        index * self.batch_size : (index + 1) * self.batch_size
                    ]
                ),
            )
            for index in range(start, len(self))
        ]
        if self.workers:
            results = self._in_workers(tasks)
        else:
            builder = self._builder(tasks)
            results = (builder[index] for index in range(len(tasks)))
        for result in results:
            self._failures.update(result.failures)
            if result.batch is not None:
                yield result.batch

    def _builder(self, tasks: list["_Task"]) -> "_Builder":
        # The examples travel with the tasks: a worker needs no other part of them.
        return _Builder(
            dataset=replace(self.dataset, examples=(), ignored=(), bad=(), notes=()),
            transform=self.transform,
            mix=self.mix,
            seed=self.seed,
            tasks=tasks,
        )

    def _in_workers(self, tasks: list["_Task"]) -> Iterator["_Result"]:
        loader = DataLoader(
            self._builder(tasks),
            batch_size=None,
            shuffle=False,
            num_workers=min(self.workers, max(1, len(tasks))),
            collate_fn=_unchanged,
            timeout=_POLL_SECONDS,
            multiprocessing_context=_context(),
            persistent_workers=False,
            # Or the loader would draw from torch's global generator, once per epoch.
            generator=torch.Generator(),
        )
        try:
            iterator = iter(loader)
        except Exception as error:
            raise ConfigError(
                f"The transform or reader cannot be sent to {self.workers} worker(s): "
                f"{error}. Define it at the top of a module, or use workers=0."
            ) from error
        for _ in tasks:
            yield self._next(iterator)

    def _next(self, iterator: Iterator["_Result"]) -> "_Result":
        waited = 0.0
        while True:
            try:
                return next(iterator)
            except RuntimeError as error:
                text = str(error)
                if "exited unexpectedly" in text:
                    raise VitralError(_died(text)) from error
                if "timed out after" not in text:
                    raise
                # torch looks for dead workers once per time-out only, hence short
                # ones; asking again continues where it was.
                waited += _POLL_SECONDS
                if self.timeout and waited >= self.timeout:
                    raise VitralError(
                        f"Loader workers gave no batch for {waited:g} seconds. A file "
                        "or the storage hangs. Use workers=0 to see where, or raise "
                        "timeout."
                    ) from error


@dataclass(frozen=True)
class _Task:
    epoch: int
    index: int
    examples: tuple[Example, ...]


class _Result(NamedTuple):
    batch: Batch | None
    failures: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Builder(Dataset[_Result]):
    """Builds whole batches, so that a dropped example never shifts a later one."""

    dataset: DataSet
    transform: Transform
    mix: MixConfig | None
    seed: int
    tasks: list[_Task]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> _Result:
        task = self.tasks[index]
        images, used = [], []
        failures: dict[str, str] = {}
        with _one_thread():
            for example in task.examples:
                try:
                    image = self.dataset.read(example)
                except ImageError as error:
                    failures[example.id] = str(error)
                    continue
                images.append(self.transform(image, example.id, task.epoch))
                used.append(example)
            if not used:
                return _Result(None, failures)
            batch = self._collate(images, used)
            if self.mix is not None:
                generator = keyed_generator("mix", self.seed, task.epoch, task.index)
                mixed = mix(batch.image, batch.target, self.mix, generator)
                batch = batch._replace(image=mixed.image, target=mixed.target)
        return _Result(batch, failures)

    def _collate(self, images: list[Tensor], examples: list[Example]) -> Batch:
        num_classes = len(self.dataset.classes)
        return Batch(
            image=torch.stack(images),
            target=torch.stack(
                [target_of(example, num_classes) for example in examples]
            ),
            label=torch.tensor([example.label[0] for example in examples]),
            id=tuple(example.id for example in examples),
        )


def target_of(example: Example, num_classes: int) -> Float[Tensor, "classes"]:
    """The training target of an example: soft, one-hot or multi-hot."""
    if example.target is not None:
        return torch.tensor(example.target, dtype=torch.float32)
    target = torch.zeros(num_classes)
    target[list(example.label)] = 1.0
    return target


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, as workers do.

    Vector and scalar paths may round differently at the border of two threads' parts,
    which would make pixels depend on the number of workers.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _context() -> BaseContext:
    """How workers start.

    Not "fork": a training process has threads (OpenMP, autograd, CUDA), and a child
    forked while one holds a lock hangs for ever. "spawn" imports torch again in every
    worker of every epoch (seconds each). A fork server imports this package once, does
    no work of its own, and forks workers in milliseconds.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Has an effect only before the server starts.
    context.set_forkserver_preload(_PRELOAD)
    return context


def _unchanged(value: Any) -> Any:
    return value


def _died(text: str) -> str:
    return (
        f"A loader worker died ({' '.join(text.split())}). Usual causes are too little "
        "memory, a full /dev/shm, or a script that starts workers outside "
        "`if __name__ == '__main__':`. Use fewer workers, a smaller batch_size, or "
        "workers=0."
    )
