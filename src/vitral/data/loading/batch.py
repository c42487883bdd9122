"""Build one batch from its examples: read, transform, stack, mix.

loader.py decides which examples share a batch and which process builds it.
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


@dataclass(frozen=True, slots=True)
class RowSlice:
    """Rows `start` up to, not including, `stop` of a batch of `size`."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class BatchRequest:
    """A batch to build: its epoch, its index there, its examples."""

    epoch: int
    index: int
    examples: tuple[Example, ...]
    draws: tuple[int, ...]
    """Index of the variation of each example."""
    transform: Transform
    rows: RowSlice | None = None
    """Rows to return; `examples` then holds these and the row before them. A slice
    with an unreadable row is not built. None: all rows."""

    def __post_init__(self) -> None:
        assert len(self.examples) == len(self.draws)


@dataclass(frozen=True, slots=True)
class Uint8Payload:
    """8-bit images of a batch from a worker, with the constants to normalise them."""

    values: UInt8[Tensor, "batch 3 height width"] | None
    """None: the images are in the slot of the request."""
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """A built batch (None if nothing was readable), and failures by example id."""

    batch: Batch | None
    failures: dict[str, str]
    payload: Uint8Payload | None = None
    """Images of a batch that a worker sent without them."""

    def attach_images(
        self, slot: UInt8[Tensor, " size"] | None = None
    ) -> "BatchResult":
        """Normalise the payload into the batch, copying it out of the slot."""
        if self.batch is None or self.payload is None:
            return self
        payload, values = self.payload, self.payload.values
        if values is None:
            assert slot is not None
            values = _view_slot(slot, payload.shape)
        image = normalize_batch(values, payload.mean, payload.std)
        return BatchResult(self.batch._replace(image=image), self.failures)


@dataclass(frozen=True, kw_only=True)
class BatchBuilder(TorchDataset[BatchResult]):
    """Build whole batches, so that a dropped example never shifts a later one."""

    dataset: Dataset
    mix: MixConfig | None
    seed: int
    requests: list[BatchRequest]
    threads: int = 1
    """Threads per batch, used where the reader and the transform are `concurrent`."""

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
            if not used or (request.rows is not None and failures):
                return BatchResult(None, failures)
            # Mixing needs the numbers that the model sees.
            if send and self.mix is None and request.rows is None:
                payload = _pack_images(images, request.transform, slot)
                if payload is not None:
                    return BatchResult(
                        self._make_batch(torch.empty(0, 3, 0, 0), used),
                        failures,
                        payload,
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

    def _collate(
        self,
        images: list[Tensor],
        examples: list[Example],
        transform: Transform,
    ) -> Batch:
        if isinstance(transform, Uint8Transform):
            preprocess = transform.preprocess
            image = normalize_batch(images, preprocess.mean, preprocess.std)
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
    preprocess = transform.preprocess
    shape = (len(images), *images[0].shape)
    if slot is None or math.prod(shape) > slot.numel():
        return Uint8Payload(torch.stack(images), shape, preprocess.mean, preprocess.std)
    torch.stack(images, out=_view_slot(slot, shape))
    return Uint8Payload(None, shape, preprocess.mean, preprocess.std)


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


@dataclass(frozen=True, slots=True)
class SlottedRequest:
    """A request for a worker, and the index of the slot for its images."""

    request: BatchRequest
    slot: int


@dataclass(frozen=True, kw_only=True)
class WorkerDataset(TorchDataset[BatchResult | UnavailableError]):
    """Build the batch of a request that is passed as the index.

    So a worker receives the examples of its next batch, not those of an epoch.
    """

    builder: BatchBuilder
    slots: UInt8[Tensor, "slots size"] | None = None
    """Memory shared between workers and the reading process; allocating it per batch
    costs more than filling it."""

    def __getitem__(self, slotted: SlottedRequest) -> BatchResult | UnavailableError:
        slot = None if self.slots is None else self.slots[slotted.slot]
        try:
            return self.builder.build(slotted.request, send=True, slot=slot)
        except UnavailableError as error:
            return error  # raised here, its text would contain a traceback


def make_target(example: Example, num_classes: int) -> Float[Tensor, "classes"]:
    """Return the training target of an example: soft, one-hot or multi-hot."""
    return make_targets([example], num_classes)[0]


def make_targets(
    examples: list[Example], num_classes: int
) -> Float[Tensor, "batch classes"]:
    """Return `make_target` of each example as rows."""
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
