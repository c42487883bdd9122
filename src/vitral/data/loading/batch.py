"""Build one batch from its examples: read, transform, stack, mix.

loader.py decides which examples share a batch and which process builds it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
"""From an RGB image (or a Clip), its example's id and the index of its variation to
pixels. The index is the epoch, unless an epoch shows several variations."""


class Batch(NamedTuple):
    """Images with their targets; the first axis is the batch everywhere."""

    image: (
        Float[Tensor, "batch channels height width"]
        | Float[Tensor, "batch frames channels height width"]
        | Float[Tensor, "batch views frames channels height width"]
        | Float[Tensor, "batch tokens dim"]
    )
    """Clips have a frames axis; an evaluation with several views has a views axis."""
    target: Float[Tensor, "batch classes"]
    """One-hot, soft or multi-hot; mixed where images are mixed."""
    label: Int[Tensor, "batch"]
    """The class index before any mixing."""
    id: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Transform for evaluation: the preprocess, without randomness."""

    concurrent: ClassVar[bool] = True
    preprocess: Preprocess

    def __call__(
        self, image: Image.Image, example_id: str, draw: int
    ) -> Float[Tensor, "3 height width"]:
        return self.preprocess(image)

    def pixels(
        self, image: Image.Image, example_id: str, draw: int
    ) -> UInt8[Tensor, "3 height width"] | None:
        """Return the image before normalisation; None if resizing leaves 8 bits."""
        if not self.preprocess.antialias:
            return None
        return uint8.to_planes(self.preprocess.resize_and_crop_image(image))


@dataclass(frozen=True)
class BatchRequest:
    """A batch to build: its epoch, its index there, its examples."""

    epoch: int
    index: int
    examples: tuple[Example, ...]
    draws: tuple[int, ...]
    """Index of the variation of each example."""
    transform: Transform
    is_slice: bool = False
    """True: the first row only mixes with the next one and is dropped; a slice with an
    unreadable row is not built."""

    def __post_init__(self) -> None:
        assert len(self.examples) == len(self.draws)

    def slice_rows(self, rows: range) -> "BatchRequest":
        """Return a request for these rows, bit for bit those of the full batch.

        Mixup pairs row i with row i - 1, so the row before the slice is built too.
        """
        size = len(self.examples)
        if len(rows) == size:
            return self
        indices = [(rows.start - 1) % size, *rows]
        return replace(
            self,
            examples=tuple(self.examples[index] for index in indices),
            draws=tuple(self.draws[index] for index in indices),
            is_slice=True,
        )


@dataclass(frozen=True, slots=True)
class BatchResult:
    """A built batch (None if nothing was readable), and failures by example id."""

    batch: Batch | None
    failures: dict[str, str]
    payload: UInt8[Tensor, "batch 3 height width"] | tuple[int, ...] | None = None
    """8-bit images that a worker sent beside the batch, or their shape in the slot."""

    def attach_images(
        self, transform: Any, slot: UInt8[Tensor, " size"] | None
    ) -> "BatchResult":
        """Normalise the payload into the batch, copying it out of the slot."""
        if self.batch is None or self.payload is None:
            return self
        values = self.payload
        if isinstance(values, tuple):
            assert slot is not None
            values = _view_slot(slot, values)
        preprocess = transform.preprocess
        image = normalize_batch(values, preprocess.mean, preprocess.std)
        return BatchResult(self.batch._replace(image=image), self.failures)


@dataclass(frozen=True, kw_only=True)
class BatchBuilder(TorchDataset[BatchResult | UnavailableError]):
    """Build whole batches, so that a dropped example never shifts a later one.

    A worker passes a request as the index, with the slot for its images: it receives
    the examples of its next batch, not those of an epoch.
    """

    dataset: Dataset
    mix: MixConfig | None
    seed: int
    threads: int = 1
    """Threads per batch, used where the reader and the transform are `concurrent`."""
    slots: UInt8[Tensor, "slots size"] | None = None
    """Memory shared between workers and the reading process; allocating it per batch
    costs more than filling it."""

    def __getitem__(
        self, task: tuple[BatchRequest, int]
    ) -> BatchResult | UnavailableError:
        request, number = task
        slot = None if self.slots is None else self.slots[number]
        try:
            return self.build(request, send=True, slot=slot)
        except UnavailableError as error:
            return error  # raised here, its text would contain a traceback

    def build(
        self,
        request: BatchRequest,
        *,
        send: bool = False,
        slot: UInt8[Tensor, " size"] | None = None,
    ) -> BatchResult:
        """Build a batch; with `send` its images may be a payload, stored in `slot`."""
        images: list[Tensor] = []
        used: list[Example] = []
        failures: dict[str, str] = {}
        with one_thread():
            varied = self._load_images(request, failures)
            for row, example in enumerate(request.examples):
                if row in varied:
                    images.append(varied[row])
                    used.append(example)
            if not used or (request.is_slice and failures):
                return BatchResult(None, failures)
            if not isinstance(request.transform, Uint8Transform):
                batch = self._make_batch(torch.stack(images), used)
            # Mixing needs the numbers that the model sees.
            elif (
                send and self.mix is None and not request.is_slice and all_uint8(images)
            ):
                batch = self._make_batch(torch.empty(0, 3, 0, 0), used)
                return BatchResult(batch, failures, _pack_images(images, slot))
            else:
                preprocess = request.transform.preprocess
                image = normalize_batch(images, preprocess.mean, preprocess.std)
                batch = self._make_batch(image, used)
            if self.mix is not None:
                generator = generator_for(
                    "mix", self.seed, request.epoch, request.index
                )
                mixed = mix(batch.image, batch.target, self.mix, generator)
                batch = batch._replace(image=mixed.image, target=mixed.target)
            if request.is_slice:
                batch = Batch._make(field[1:] for field in batch)
        return BatchResult(batch, failures)

    def _load_images(
        self, request: BatchRequest, failures: dict[str, str]
    ) -> dict[int, Tensor]:
        """Return the image of each row; a repeated example is read once."""
        rows: dict[Example, list[int]] = {}
        for row, example in enumerate(request.examples):
            rows.setdefault(example, []).append(row)
        vary = _defer_normalize(request.transform)

        def vary_example(example: Example) -> list[Tensor] | str:
            try:
                opened = self.dataset.open(example)
                # A clip is decoded only once its frames are chosen.
                return [
                    vary(opened, example.id, request.draws[row])
                    for row in rows[example]
                ]
            except ImageError as error:
                return str(error)

        stages = self.dataset.reader, request.transform
        is_concurrent = all(getattr(stage, "concurrent", False) for stage in stages)
        threads = self.threads if is_concurrent else 1
        varied: dict[int, Tensor] = {}
        for example, images in zip(
            rows, map_in_threads(vary_example, rows, threads), strict=True
        ):
            if isinstance(images, str):
                failures[example.id] = images
            else:
                varied.update(zip(rows[example], images, strict=True))
        return varied

    def _make_batch(self, image: Tensor, examples: list[Example]) -> Batch:
        return Batch(
            image=image,
            target=make_targets(examples, len(self.dataset.classes)),
            label=torch.tensor([example.label[0] for example in examples]),
            id=tuple(example.id for example in examples),
        )


def _pack_images(
    images: list[Tensor], slot: UInt8[Tensor, " size"] | None
) -> Tensor | tuple[int, ...]:
    """Stack images in the slot and return their shape, or return the stack."""
    shape = (len(images), *images[0].shape)
    if slot is None or math.prod(shape) > slot.numel():
        return torch.stack(images)
    torch.stack(images, out=_view_slot(slot, shape))
    return shape


def _view_slot(slot: Tensor, shape: tuple[int, ...]) -> Tensor:
    return slot[: math.prod(shape)].view(shape)


def _defer_normalize(transform: Transform) -> Transform:
    """Return a transform that stops before normalisation where images have 8 bits."""
    if not isinstance(transform, Uint8Transform):
        return transform

    def vary(opened: Any, example_id: str, draw: int) -> Tensor:
        pixels = transform.pixels(opened, example_id, draw)
        return transform(opened, example_id, draw) if pixels is None else pixels

    return vary


def make_targets(
    examples: Sequence[Example], num_classes: int
) -> Float[Tensor, "batch classes"]:
    """Return the training target of each example: soft, one-hot or multi-hot."""
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

    Vector and scalar paths may round differently where two threads' ranges meet, so
    pixels would depend on the number of workers.
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
