"""Dynamic batching: collect the images of many clients by count and by time.

An image past its deadline, or without a client, is dropped before it is computed. One
that would miss its deadline is refused.
"""

import asyncio
import math
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from vitral.serve.errors import HTTPError
from vitral.serve.metrics import Metrics
from vitral.serve.settings import Settings

_MAX_WAIT_SHARE = 0.8
"""Largest share of the time-out that the wait in the queue may take."""


@dataclass(kw_only=True, eq=False)
class PreparedImage:
    """One image that is decoded and preprocessed, in memory of its model."""

    owner: object
    """The decoders that prepared it; another model's image is another."""
    slot: int
    """Start of its values in the arena."""
    size: list[int]
    """Height and width of the upright picture."""
    notes: list[str]
    picture: bytes
    """The upright picture if the answer is drawn on it."""
    releases: list[Callable[[], None]]

    def release(self) -> None:
        """Free its memory; more than once is free."""
        while self.releases:
            self.releases.pop()()


@dataclass(kw_only=True, eq=False)
class Item:
    """One image, from its request to its answer."""

    content: bytes
    wants: dict[str, Any]
    """`top`, `map`, `embedding`, `outputs`, `media_type`, as the worker reads them."""
    arrival_time: float
    """When its last byte arrived, in seconds of the loop's clock, as the others."""
    deadline: float
    future: asyncio.Future[dict[str, Any]]
    started: float = 0.0
    """When its batch started."""
    batch: int = 0
    is_client_gone: bool = False
    ready: float = 0.0
    """When it was decoded and joined the queue."""
    image: PreparedImage | None = None


class WorkerDied(Exception):
    """The worker process exited, or was killed, during a request."""


Ask = Callable[[Sequence[Item]], Awaitable[list[dict[str, Any]]]]
Prepare = Callable[[Item], Awaitable[PreparedImage]]
STALE = "stale"
"""Key of a row whose image another model's decoders prepared."""


class Batcher:
    """Bounded queue in front of a model that takes one batch at a time.

    An image is decoded before it joins the queue, so that a slow one delays no batch.
    """

    def __init__(
        self,
        settings: Settings,
        ask: Ask,
        metrics: Metrics,
        prepare: Prepare | None = None,
    ) -> None:
        self.settings = settings
        self.ask = ask
        self.prepare = prepare
        """Decodes an image, or raises HTTPError; None if nothing is decoded."""
        self.metrics = metrics
        self.queue: deque[Item] = deque()
        self.running: list[Item] = []
        self.decoding: dict[Item, asyncio.Task[None]] = {}
        self.max_queue_length = 0
        """Largest number of images that waited at a time."""
        self.seconds_per_image = 0.0
        """Median of the last 9 batches, or of the last 9 decoded images if these take
        longer; 0 before the first."""
        self._recent_seconds: deque[float] = deque(maxlen=9)
        self._recent_decodes: deque[float] = deque(maxlen=9)
        self._arrived = asyncio.Event()

    @property
    def num_waiting(self) -> int:
        """Images that are decoded or wait for the model."""
        return len(self.queue) + len(self.decoding)

    def submit(self, item: Item) -> None:
        """Queue an image; raise HTTPError (429) if its answer would come too late."""
        capacity = self.settings.queue_limit
        ahead = self.num_waiting + len(self.running)
        wait = (ahead + 1) * self.seconds_per_image
        # An idle server tries the first image in any case: no estimate may lock it.
        late = ahead > 0 and wait > _MAX_WAIT_SHARE * self.settings.timeout
        # A queue longer than keeps the model busy only adds latency for all.
        late |= (
            self.num_waiting >= self.settings.max_batch
            and wait > self.settings.queue_seconds
        )
        if self.num_waiting >= capacity or late:
            reason = (
                f"{capacity} images wait already"
                if self.num_waiting >= capacity
                else f"the answer would take some {wait:.1f} seconds"
            )
            raise HTTPError(
                429,
                "queue_full",
                f"The server is at its limit: {reason}. Send the image again later.",
                retry_after=max(1, math.ceil(wait / 2)),
            )
        self._begin(item)
        self.max_queue_length = max(self.max_queue_length, self.num_waiting)

    async def run(self) -> None:
        """Form and run batches until cancelled."""
        while True:
            await self._arrived.wait()
            await self._wait_for_batch()
            batch = self._take_batch()
            if batch:
                await self._run_batch(batch)

    def fail_all(self, error: HTTPError) -> None:
        """Answer all queued and running images with `error`."""
        for item in (*self.running, *self.queue, *self.decoding):
            if not item.future.done():
                item.future.set_exception(error)
        for item in self.queue:
            _release(item)
        self.queue.clear()

    def _begin(self, item: Item) -> None:
        """Decode an image, which then joins the queue."""
        if self.prepare is None:
            self._join_queue(item)
        else:
            task = asyncio.create_task(self._decode(item, self.prepare))
            self.decoding[item] = task

    async def _decode(self, item: Item, prepare: Prepare) -> None:
        started = asyncio.get_running_loop().time()
        try:
            item.image = await prepare(item)
        except HTTPError as error:
            self.metrics.dropped += item.is_client_gone
            if not item.future.done():
                item.future.set_exception(error)
        except Exception as error:
            traceback.print_exc()
            if not item.future.done():
                item.future.set_exception(error)
        else:
            self._join_queue(item)
            # Others were decoded in the same time.
            share = (item.ready - started) / len(self.decoding)
            self._recent_decodes.append(share)
            self._estimate()
        finally:
            del self.decoding[item]

    def _join_queue(self, item: Item) -> None:
        item.ready = asyncio.get_running_loop().time()
        self.queue.append(item)
        self._arrived.set()

    def _estimate(self) -> None:
        # The median: one delayed batch does not predict the next.
        self.seconds_per_image = max(
            median_low(recent)
            for recent in (self._recent_seconds, self._recent_decodes)
            if recent
        )

    async def _wait_for_batch(self) -> None:
        """Wait for a full batch, or until the first image waited `max_wait_ms`."""
        loop = asyncio.get_running_loop()
        while 0 < len(self.queue) < self.settings.max_batch:
            until = self.queue[0].ready + self.settings.max_wait_ms / 1000
            left = until - loop.time()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                self._arrived.set()
                return

    def _take_batch(self) -> list[Item]:
        """Return the next batch without images that are late or have no client."""
        now = asyncio.get_running_loop().time()
        batch: list[Item] = []
        while self.queue and len(batch) < self.settings.max_batch:
            item = self.queue.popleft()
            if item.is_client_gone or item.future.done() or item.deadline <= now:
                self.metrics.dropped += 1
                _release(item)
                continue
            batch.append(item)
        if not self.queue:
            self._arrived.clear()
        return batch

    async def _run_batch(self, batch: list[Item]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for item in batch:
            item.started, item.batch = started, len(batch)
        self.running = batch
        try:
            answers = await self.ask(batch)
        except WorkerDied:
            # `Worker.on_death` has answered every image.
            return
        finally:
            self.running = []
            for item in batch:
                _release(item)
        self._recent_seconds.append((loop.time() - started) / len(batch))
        self._estimate()
        self.metrics.observe_batch(len(batch))
        for item, answer in zip(batch, answers, strict=True):
            if STALE in answer:
                self._begin(item)
            elif not item.future.done():
                item.future.set_result(answer)


def _release(item: Item) -> None:
    """Free the memory of a decoded image."""
    if item.image is not None:
        item.image.release()
