"""One batch from its examples: read, transform, stack, mix; the work of one worker.

Which examples share a batch, and who builds it, is in loader.py.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vitral.data import eight_bit
from vitral.data.dataset import DataSet, Example, UnavailableError
from vitral.data.eight_bit import EightBit, are_pixels, stacked
from vitral.data.keyed import keyed_generator
from vitral.data.mix import MixConfig, mix
from vitral.data.preprocess import Preprocess
from vitral.errors import ImageError

Transform = Callable[[Any, str, int], Tensor]
"""From an RGB image, or a Clip, its example's id and a number to pixels: the number of
its variation, which is the epoch where each epoch shows one of every example."""


class Batch(NamedTuple):
    """Images with their targets; the first axis is the batch everywhere."""

    image: (
        Float[Tensor, "batch channels height width"]
        | Float[Tensor, "batch frames channels height width"]
        | Float[Tensor, "batch views frames channels height width"]
        | Float[Tensor, "batch tokens dim"]
    )
    """Of clips with frames; in an evaluation of several views with views."""
    target: Float[Tensor, "batch classes"]
    """One-hot, soft or multi-hot; mixed where images are mixed."""
    label: Int[Tensor, "batch"]
    """The class index before any mixing."""
    id: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The transform of evaluation: the preprocess, without any randomness."""

    preprocess: Preprocess

    def __call__(
        self, image: Image.Image, example_id: str, number: int
    ) -> Float[Tensor, "3 height width"]:
        return self.preprocess(image)

    def pixels(
        self, image: Image.Image, example_id: str, number: int
    ) -> UInt8[Tensor, "3 height width"] | None:
        """The image before it is normalised, where resizing keeps 8 bits."""
        if not self.preprocess.antialias:
            return None
        return eight_bit.values(self.preprocess.resized_image(image))


class Rows(NamedTuple):
    """Rows `first` up to, not including, `last` of a batch of `size`."""

    first: int
    last: int
    size: int


@dataclass(frozen=True)
class Task:
    """A batch to build: its epoch, its number in it, its examples."""

    epoch: int
    index: int
    examples: tuple[Example, ...]
    numbers: tuple[int, ...]
    """Which variation of each example."""
    transform: Transform
    part: Rows | None = None
    """The rows that are wanted, where `examples` are those and the row before them;
    None for all. A part is built whole or not at all."""

    def __post_init__(self) -> None:
        assert len(self.examples) == len(self.numbers)


class Packed(NamedTuple):
    """The 8-bit images of a batch on their way, and what normalises them."""

    values: UInt8[Tensor, "batch 3 height width"]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Result(NamedTuple):
    """A built batch, None if nothing was readable, and what was not."""

    batch: Batch | None
    failures: dict[str, str]
    packed: Packed | None = None
    """Images of a batch that came from a worker without them."""

    def arrived(self) -> "Result":
        """With the images in the batch."""
        if self.batch is None or self.packed is None:
            return self
        image = stacked(*self.packed)
        return Result(self.batch._replace(image=image), self.failures)


@dataclass(frozen=True, kw_only=True)
class Builder(Dataset[Result]):
    """Builds whole batches, so that a dropped example never shifts a later one."""

    dataset: DataSet
    mix: MixConfig | None
    seed: int
    tasks: list[Task]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Result:
        return self.build(self.tasks[index])

    def build(self, task: Task, *, send: bool = False) -> Result:
        """The batch of a task; with `send` its images may be packed."""
        images: list[Tensor] = []
        used: list[Example] = []
        failures: dict[str, str] = {}
        with one_thread():
            varied = self._varied(task, failures)
            for row, example in enumerate(task.examples):
                if row in varied:
                    images.append(varied[row])
                    used.append(example)
            if not used or (task.part is not None and failures):
                return Result(None, failures)
            # Mixing needs the numbers that the model sees.
            if send and self.mix is None and task.part is None:
                late = _packed(images, task.transform)
                if late is not None:
                    return Result(
                        self._batch(torch.empty(0, 3, 0, 0), used), failures, late
                    )
            batch = self._collate(images, used, task.transform)
            if self.mix is not None:
                generator = keyed_generator("mix", self.seed, task.epoch, task.index)
                mixed = mix(batch.image, batch.target, self.mix, generator)
                batch = batch._replace(image=mixed.image, target=mixed.target)
            if task.part is not None:
                image, target, label, ids = batch
                batch = Batch(image[1:], target[1:], label[1:], ids[1:])
        return Result(batch, failures)

    def _varied(self, task: Task, failures: dict[str, str]) -> dict[int, Tensor]:
        """The image of each row; an example that is shown several times is read once,
        and no other is held meanwhile."""
        rows: dict[Example, list[int]] = {}
        for row, example in enumerate(task.examples):
            rows.setdefault(example, []).append(row)
        varied: dict[int, Tensor] = {}
        vary = _late(task.transform)
        for example, places in rows.items():
            try:
                opened = self.dataset.open(example)
                # A clip is decoded only once its frames are chosen.
                found = [vary(opened, example.id, task.numbers[row]) for row in places]
            except ImageError as error:
                failures[example.id] = str(error)
                continue
            varied.update(zip(places, found, strict=True))
        return varied

    def _collate(
        self,
        images: list[Tensor],
        examples: list[Example],
        transform: Transform,
    ) -> Batch:
        if isinstance(transform, EightBit):
            of = transform.preprocess
            image = stacked(images, of.mean, of.std)
        else:
            image = torch.stack(images)
        return self._batch(image, examples)

    def _batch(self, image: Tensor, examples: list[Example]) -> Batch:
        return Batch(
            image=image,
            target=targets_of(examples, len(self.dataset.classes)),
            label=torch.tensor([example.label[0] for example in examples]),
            id=tuple(example.id for example in examples),
        )


def _packed(images: list[Tensor], transform: Transform) -> Packed | None:
    if not isinstance(transform, EightBit) or not are_pixels(images):
        return None
    of = transform.preprocess
    return Packed(torch.stack(images), of.mean, of.std)


def _late(transform: Transform) -> Transform:
    """The transform, its result not yet normalised where that has 8 bits."""
    if not isinstance(transform, EightBit):
        return transform

    def vary(opened: Any, example_id: str, number: int) -> Tensor:
        pixels = transform.pixels(opened, example_id, number)
        return transform(opened, example_id, number) if pixels is None else pixels

    return vary


@dataclass(frozen=True, kw_only=True)
class Sent(Dataset[Result | UnavailableError]):
    """Builds the batch of a task that arrives as its index.

    A worker thus gets the examples of its next batch, not those of a whole epoch.
    """

    builder: Builder

    def __getitem__(self, task: Task) -> Result | UnavailableError:
        try:
            return self.builder.build(task, send=True)
        except UnavailableError as error:
            return error  # raised there, it would arrive with a traceback in its text


def end_with_parent(worker: int) -> None:
    """Let a worker end when the process that reads its batches is killed.

    torch looks at the parent of the worker, which is the fork server; and that server
    waits for its last worker.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=_exit_after, args=(parent.sentinel,), daemon=True
        ).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def target_of(example: Example, num_classes: int) -> Float[Tensor, "classes"]:
    """The training target of an example: soft, one-hot or multi-hot."""
    if example.target is not None:
        return torch.tensor(example.target, dtype=torch.float32)
    target = torch.zeros(num_classes)
    target[list(example.label)] = 1.0
    return target


def targets_of(
    examples: list[Example], num_classes: int
) -> Float[Tensor, "batch classes"]:
    """`target_of` each."""
    targets = np.zeros((len(examples), num_classes), np.float32)
    for row, example in zip(targets, examples, strict=True):
        if example.target is not None:
            row[:] = example.target
        else:
            row[list(example.label)] = 1.0
    return torch.from_numpy(targets)


@contextmanager
def one_thread() -> Iterator[None]:
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
