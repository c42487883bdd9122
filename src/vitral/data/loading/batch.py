"""One batch from its examples: read, transform, stack, mix; the work of one worker.

Which examples share a batch, and who builds it, is in loader.py.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from vitral.data.augmentation import MixConfig, mix
from vitral.data.dataset import Dataset, Example, UnavailableError
from vitral.data.images import (
    Preprocess,
    Uint8Transform,
    all_uint8,
    normalize_batch,
    uint8,
)
from vitral.data.loading.thread_map import map_in_threads
from vitral.data.rng import generator_for
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
class EvalTransform:
    """The transform of evaluation: the preprocess, without any randomness."""

    concurrent: ClassVar[bool] = True
    preprocess: Preprocess

    def __call__(
        self, image: Image.Image, example_id: str, draw: int
    ) -> Float[Tensor, "3 height width"]:
        return self.preprocess(image)

    def pixels(
        self, image: Image.Image, example_id: str, draw: int
    ) -> UInt8[Tensor, "3 height width"] | None:
        """The image before it is normalised, where resizing keeps 8 bits."""
        if not self.preprocess.antialias:
            return None
        return uint8.to_planes(self.preprocess.resize_and_crop_image(image))


class RowSlice(NamedTuple):
    """Rows `first` up to, not including, `last` of a batch of `size`."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class BatchRequest:
    """A batch to build: its epoch, its number in it, its examples."""

    epoch: int
    index: int
    examples: tuple[Example, ...]
    draws: tuple[int, ...]
    """Which variation of each example."""
    transform: Transform
    rows: RowSlice | None = None
    """The rows that are wanted, where `examples` are those and the row before them;
    None for all. A part is built whole or not at all."""

    def __post_init__(self) -> None:
        assert len(self.examples) == len(self.draws)


class Uint8Payload(NamedTuple):
    """The 8-bit images of a batch on their way, and what normalises them."""

    values: UInt8[Tensor, "batch 3 height width"] | None
    """None where they lie in the slot of their task."""
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class BatchResult(NamedTuple):
    """A built batch, None if nothing was readable, and what was not."""

    batch: Batch | None
    failures: dict[str, str]
    payload: Uint8Payload | None = None
    """Images of a batch that came from a worker without them."""

    def attach_images(
        self, slot: UInt8[Tensor, " size"] | None = None
    ) -> "BatchResult":
        """With the images in the batch, and none in the slot that it came by."""
        if self.batch is None or self.payload is None:
            return self
        values, shape, mean, std = self.payload
        if values is None:
            assert slot is not None
            values = _view_slot(slot, shape)
        image = normalize_batch(values, mean, std)
        return BatchResult(self.batch._replace(image=image), self.failures)


@dataclass(frozen=True, kw_only=True)
class BatchBuilder(TorchDataset[BatchResult]):
    """Builds whole batches, so that a dropped example never shifts a later one."""

    dataset: Dataset
    mix: MixConfig | None
    seed: int
    requests: list[BatchRequest]
    threads: int = 1
    """That work at once, on images whose reader and transform are `concurrent`."""

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> BatchResult:
        return self.build(self.requests[index])

    def build(
        self,
        request: BatchRequest,
        *,
        send: bool = False,
        slot: UInt8[Tensor, " size"] | None = None,
    ) -> BatchResult:
        """The batch of a task; with `send` its images may be packed, and in `slot`."""
        images: list[Tensor] = []
        used: list[Example] = []
        failures: dict[str, str] = {}
        with one_thread():
            varied = self._load_images(request, failures)
            for row, example in enumerate(request.examples):
                if row in varied:
                    images.append(varied[row])
                    used.append(example)
            if not used or (request.rows is not None and failures):
                return BatchResult(None, failures)
            # Mixing needs the numbers that the model sees.
            if send and self.mix is None and request.rows is None:
                late = _pack_images(images, request.transform, slot)
                if late is not None:
                    return BatchResult(
                        self._make_batch(torch.empty(0, 3, 0, 0), used), failures, late
                    )
            batch = self._collate(images, used, request.transform)
            if self.mix is not None:
                generator = generator_for(
                    "mix", self.seed, request.epoch, request.index
                )
                mixed = mix(batch.image, batch.target, self.mix, generator)
                batch = batch._replace(image=mixed.image, target=mixed.target)
            if request.rows is not None:
                image, target, label, ids = batch
                batch = Batch(image[1:], target[1:], label[1:], ids[1:])
        return BatchResult(batch, failures)

    def _load_images(
        self, request: BatchRequest, failures: dict[str, str]
    ) -> dict[int, Tensor]:
        """The image of each row; an example that is shown several times is read once,
        and each thread holds one meanwhile."""
        rows: dict[Example, list[int]] = {}
        for row, example in enumerate(request.examples):
            rows.setdefault(example, []).append(row)
        vary = _defer_normalize(request.transform)

        def found(example: Example) -> list[Tensor] | str:
            try:
                opened = self.dataset.open(example)
                # A clip is decoded only once its frames are chosen.
                return [
                    vary(opened, example.id, request.draws[row])
                    for row in rows[example]
                ]
            except ImageError as error:
                return str(error)

        parts = self.dataset.reader, request.transform
        apart = all(getattr(part, "concurrent", False) for part in parts)
        threads = self.threads if apart else 1
        varied: dict[int, Tensor] = {}
        for example, images in zip(
            rows, map_in_threads(found, rows, threads), strict=True
        ):
            if isinstance(images, str):
                failures[example.id] = images
            else:
                varied.update(zip(rows[example], images, strict=True))
        return varied

    def _collate(
        self,
        images: list[Tensor],
        examples: list[Example],
        transform: Transform,
    ) -> Batch:
        if isinstance(transform, Uint8Transform):
            of = transform.preprocess
            image = normalize_batch(images, of.mean, of.std)
        else:
            image = torch.stack(images)
        return self._make_batch(image, examples)

    def _make_batch(self, image: Tensor, examples: list[Example]) -> Batch:
        return Batch(
            image=image,
            target=make_targets(examples, len(self.dataset.classes)),
            label=torch.tensor([example.label[0] for example in examples]),
            id=tuple(example.id for example in examples),
        )


def _pack_images(
    images: list[Tensor], transform: Transform, slot: UInt8[Tensor, " size"] | None
) -> Uint8Payload | None:
    if not isinstance(transform, Uint8Transform) or not all_uint8(images):
        return None
    of = transform.preprocess
    shape = (len(images), *images[0].shape)
    if slot is None or math.prod(shape) > slot.numel():
        return Uint8Payload(torch.stack(images), shape, of.mean, of.std)
    torch.stack(images, out=_view_slot(slot, shape))
    return Uint8Payload(None, shape, of.mean, of.std)


def _view_slot(slot: Tensor, shape: tuple[int, ...]) -> Tensor:
    return slot[: math.prod(shape)].view(shape)


def _defer_normalize(transform: Transform) -> Transform:
    """The transform, its result not yet normalised where that has 8 bits."""
    if not isinstance(transform, Uint8Transform):
        return transform

    def vary(opened: Any, example_id: str, number: int) -> Tensor:
        pixels = transform.pixels(opened, example_id, number)
        return transform(opened, example_id, number) if pixels is None else pixels

    return vary


class SlottedRequest(NamedTuple):
    """A task on its way to a worker, and the slot that its images may use."""

    request: BatchRequest
    slot: int


@dataclass(frozen=True, kw_only=True)
class WorkerDataset(TorchDataset[BatchResult | UnavailableError]):
    """Builds the batch of a task that arrives as its index.

    A worker thus gets the examples of its next batch, not those of a whole epoch.
    """

    builder: BatchBuilder
    slots: UInt8[Tensor, "slots size"] | None = None
    """Memory that the workers share with the reader: giving each batch its own costs
    more than filling it."""

    def __getitem__(self, placed: SlottedRequest) -> BatchResult | UnavailableError:
        slot = None if self.slots is None else self.slots[placed.slot]
        try:
            return self.builder.build(placed.request, send=True, slot=slot)
        except UnavailableError as error:
            return error  # raised there, it would arrive with a traceback in its text


def make_target(example: Example, num_classes: int) -> Float[Tensor, "classes"]:
    """The training target of an example: soft, one-hot or multi-hot."""
    if example.target is not None:
        return torch.tensor(example.target, dtype=torch.float32)
    target = torch.zeros(num_classes)
    target[list(example.label)] = 1.0
    return target


def make_targets(
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
