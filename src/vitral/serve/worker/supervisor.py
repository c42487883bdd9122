"""Supervisor of the worker process: start, health checks, restart, reload.

Hand-written: LitServe isolates workers but cannot reload without losing requests. A
crash answers pending requests with 503; three within a minute stop the server. During a
reload the first process answers until the second has passed its self-test.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vitral.errors import ServerError, VitralError
from vitral.serve.batching import Item, PreparedImage, WorkerDied
from vitral.serve.errors import HTTPError
from vitral.serve.settings import Settings
from vitral.serve.worker.decoder_pool import PoolClosed
from vitral.serve.worker.process import ForkServer, ModelProcess

MAX_DEATHS = 3
"""Crashes within `DEATH_WINDOW` seconds after which the server stops."""
DEATH_WINDOW = 60.0
_HEALTH_CHECK_SECONDS = 5.0
"""Seconds without a batch before a health check."""


class Worker:
    """The current worker process; takes one batch at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model_info: dict[str, Any] = {}
        """`Predictor.describe` of the current or last model."""
        self.task_part: dict[str, Any] = {}
        """`Predictor.describe_task` of that model."""
        self.deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self.on_death: Callable[[], None] = lambda: None
        """Called at once after a crash, to fail all pending requests."""
        self._fork_server: ForkServer | None = None
        self._process: ModelProcess | None = None
        self._ask_lock = asyncio.Lock()
        self._start_lock = asyncio.Lock()
        self._ended = asyncio.Event()
        self._past_decoder_deaths = 0

    @property
    def ready(self) -> bool:
        return self._process is not None

    async def start(self) -> None:
        """Start a process if none runs.

        Raises:
            VitralError: the model was refused.
            ServerError: the process exited without an answer.
        """
        async with self._start_lock:
            if self._process is None:
                self._adopt(await self._spawn())

    async def reload(self) -> None:
        """Load the model again in a second process, which then replaces the first.

        The first answers until the second is ready, and stays if that one fails.

        Raises:
            VitralError, ServerError: as `start`.
        """
        async with self._start_lock:
            fresh = await self._spawn()
            try:
                # A running batch finishes with its model.
                async with self._ask_lock:
                    old = self._process
                    self._adopt(fresh)
            except BaseException:
                fresh.kill()
                raise
            if old is not None:
                self._end(old)

    async def prepare(self, item: Item) -> PreparedImage:
        """Decode an image for the current model.

        Raises:
            HTTPError: it cannot be read, or the model process ended.
        """
        while (process := self._process) is not None:
            # After a reload the decoders are others.
            with contextlib.suppress(PoolClosed):
                return await process.decoders.prepare(item)
        raise worker_died()

    @property
    def decoder_deaths(self) -> int:
        """Decoders that ended while they decoded."""
        current = self._process.decoders.deaths if self._process else 0
        return self._past_decoder_deaths + current

    async def ask(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Return the rows of a batch; an empty batch is a health check.

        Raises:
            WorkerDied: it exited or hung; `on_death` was called.
        """
        async with self._ask_lock:
            if self._process is None:
                raise WorkerDied
            try:
                return await self._process.ask(items, self.settings.worker_timeout)
            except WorkerDied:
                self._on_exit()
                raise

    async def supervise(self) -> None:
        """Restart the process whenever it exited.

        Raises:
            ServerError: it exited too often.
        """
        while True:
            await self._wait_for_end()
            while not self.ready:
                self._check_restart_limit()
                try:
                    await self.start()
                except VitralError as error:
                    print(f"vitral serve: {error}", file=sys.stderr, flush=True)
                    self.deaths.append(time.monotonic())

    def close(self) -> None:
        """Kill the worker and the fork server."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._fork_server is not None:
            self._fork_server.close()

    async def _spawn(self) -> ModelProcess:
        if self._fork_server is None or not self._fork_server.is_alive():
            self._fork_server = await asyncio.to_thread(ForkServer)
        settings = self.settings
        cores = _cpu_count()
        options = {
            "run": settings.run,
            "merge": settings.merge,
            "merge_schedule": settings.merge_schedule,
            "max_batch": settings.max_batch,
            "threads": settings.threads or cores,
            "cores": cores,
        }
        return await ModelProcess.start(self._fork_server, settings, options)

    def _adopt(self, process: ModelProcess) -> None:
        self._process = process
        self.model_info, self.task_part = process.model_info, process.task_part
        self._ended.clear()

    async def _wait_for_end(self) -> None:
        """Wait until a batch failed, or an idle process exited or hung.

        `ask` notices an exit during a batch, this method one between two.
        """
        while self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), 0.1)
            process = self._process
            if process is None or self._ask_lock.locked():
                continue
            if process.has_ended():
                self._on_exit()
            elif time.monotonic() - process.last_used > _HEALTH_CHECK_SECONDS:
                with contextlib.suppress(WorkerDied):
                    await self.ask([])

    def _on_exit(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        self._end(process)
        self.deaths.append(time.monotonic())
        self._ended.set()
        self.on_death()

    def _end(self, process: ModelProcess) -> None:
        self._past_decoder_deaths += process.decoders.deaths
        process.kill()

    def _check_restart_limit(self) -> None:
        if (
            len(self.deaths) == MAX_DEATHS
            and self.deaths[-1] - self.deaths[0] <= DEATH_WINDOW
        ):
            raise ServerError(
                f"The model process ended {MAX_DEATHS} times within {DEATH_WINDOW:g} "
                "seconds; "
                "the server stops, since starting it again does not help. Look for "
                "the cause above, such as memory."
            )


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_died() -> HTTPError:
    """Return what requests are answered when the model process ended."""
    message = "The model process ended while it was asked. Send the image again."
    return HTTPError(503, "worker_died", message, retry_after=1)
