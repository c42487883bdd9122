"""Build one batch from its examples: read, transform, stack, mix.

loader.py decides which examples share a batch and which process builds it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from vitral.data.augmentation import MixConfig, mix
from vitral.data.dataset import Dataset
from vitral.data.example import Example
from vitral.data.images import (
    Uint8Transform,
    all_uint8,
    normalize_batch,
)
from vitral.data.loading.thread_map import map_in_threads
from vitral.data.loading.transforms import Transform, defer_normalize, get_geometry
from vitral.data.rng import generator_for
from vitral.errors import ImageError, VitralError
from vitral.nested import slice_rows


class Batch(NamedTuple):
    """Images with their targets; the first axis is the batch everywhere."""

    image: (
        Float[Tensor, "batch channels height width"]
        | Float[Tensor, "batch frames channels height width"]
        | Float[Tensor, "batch views frames channels height width"]
        | Float[Tensor, "batch tokens dim"]
    )
    """Clips have a frames axis; an evaluation with several views has a views axis."""
    target: Any
    """Stack of the data set's `Targets`, such as a `ClassTarget`."""
    id: tuple[str, ...]


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


class _Sample(NamedTuple):
    """One row of a batch before it is stacked."""

    image: Tensor
    example: Example
    target: Any


@dataclass(frozen=True, kw_only=True)
class BatchBuilder(TorchDataset[BatchResult | VitralError]):
    """Build whole batches, so that a dropped example never shifts a later one.

    A worker passes a request as the index, with the slot for its images: it receives
    the examples of its next batch, not those of an epoch.
    """

    dataset: Dataset
    mix: MixConfig | None
    seed: int
    threads: int = 1
    """Threads per batch, where reader, transform and targets are `concurrent`."""
    slots: UInt8[Tensor, "slots size"] | None = None
    """Memory shared between workers and the reading process; allocating it per batch
    costs more than filling it."""

    def __getitem__(self, task: tuple[BatchRequest, int]) -> BatchResult | VitralError:
        request, number = task
        slot = None if self.slots is None else self.slots[number]
        try:
            return self.build(request, send=True, slot=slot)
        except VitralError as error:
            return error  # raised here, its text would contain a traceback

    def build(
        self,
        request: BatchRequest,
        *,
        send: bool = False,
        slot: UInt8[Tensor, " size"] | None = None,
    ) -> BatchResult:
        """Build a batch; with `send` its images may be a payload, stored in `slot`."""
        failures: dict[str, str] = {}
        with one_thread():
            samples = self._load_samples(request, failures)
            if not samples or (request.is_slice and failures):
                return BatchResult(None, failures)
            images = [sample.image for sample in samples]
            if not isinstance(request.transform, Uint8Transform):
                batch = self._make_batch(torch.stack(images), samples)
            # Mixing needs the numbers that the model sees.
            elif (
                send and self.mix is None and not request.is_slice and all_uint8(images)
            ):
                batch = self._make_batch(torch.empty(0, 3, 0, 0), samples)
                return BatchResult(batch, failures, _pack_images(images, slot))
            else:
                preprocess = request.transform.preprocess
                image = normalize_batch(images, preprocess.mean, preprocess.std)
                batch = self._make_batch(image, samples)
            if self.mix is not None:
                generator = generator_for(
                    "mix", self.seed, request.epoch, request.index
                )
                blend = self.dataset.targets.blend
                mixed = mix(batch.image, batch.target, self.mix, generator, blend)
                batch = batch._replace(image=mixed.image, target=mixed.target)
            if request.is_slice:
                batch = slice_rows(batch, 1, None)
        return BatchResult(batch, failures)

    def _load_samples(
        self, request: BatchRequest, failures: dict[str, str]
    ) -> list[_Sample]:
        """Return the readable rows, in order; a repeated example is read once."""
        rows: dict[Example, list[int]] = {}
        for row, example in enumerate(request.examples):
            rows.setdefault(example, []).append(row)
        vary = defer_normalize(request.transform)

        def vary_example(example: Example) -> list[_Sample] | str:
            try:
                opened = self.dataset.open(example)
                target = self.dataset.targets.read(example)
                samples = []
                for row in rows[example]:
                    key = opened, example.id, request.draws[row]
                    # A clip is decoded only once its frames are chosen.
                    image, moved = vary(*key), target
                    if self.dataset.targets.moves:
                        moved = get_geometry(request.transform, *key).apply(target)
                    samples.append(_Sample(image, example, moved))
                return samples
            except ImageError as error:
                return str(error)

        stages = self.dataset.reader, request.transform, self.dataset.targets
        is_concurrent = all(getattr(stage, "concurrent", False) for stage in stages)
        threads = self.threads if is_concurrent else 1
        varied: dict[int, _Sample] = {}
        for example, samples in zip(
            rows, map_in_threads(vary_example, rows, threads), strict=True
        ):
            if isinstance(samples, str):
                failures[example.id] = samples
            else:
                varied.update(zip(rows[example], samples, strict=True))
        return [varied[row] for row in sorted(varied)]

    def _make_batch(self, image: Tensor, samples: list[_Sample]) -> Batch:
        examples = [sample.example for sample in samples]
        values = [sample.target for sample in samples]
        return Batch(
            image=image,
            target=self.dataset.targets.stack(self.dataset.classes, examples, values),
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
