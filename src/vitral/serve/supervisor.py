"""The model process, kept alive: started, asked, watched, ended when it hangs.

Its end is seen at once, since its socket ends with it. Whoever waited is answered, and
another is forked; three ends within a minute end the server, which cannot mend that.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vitral import errors
from vitral.errors import ServerError
from vitral.serve import channel
from vitral.serve.batching import Item, WorkerDied
from vitral.serve.settings import Settings

DEATHS = 3
"""Ends of the model process within `WINDOW` seconds after which the server gives up."""
WINDOW = 60.0
LOAD_SECONDS = 300.0
_PULSE = 5.0
"""Seconds without a batch after which the process is asked for a sign of life."""


class Worker:
    """The process that holds the model. One question at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.facts: dict[str, Any] = {}
        self.ready = False
        self.pid = 0
        self.deaths: deque[float] = deque(maxlen=DEATHS)
        self.on_death: Callable[[], None] = lambda: None
        """Called at once, so that nobody waits for an answer that cannot come."""
        self._maker: _Maker | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()
        self._ended = asyncio.Event()
        self._used = 0.0

    async def start(self) -> None:
        """Start the process and wait until its model has answered once.

        Raises:
            VitralError: what the model is refused for.
            ServerError: the process ended without a word.
        """
        if self._maker is None or not self._maker.is_alive():
            self._maker = await asyncio.to_thread(_Maker)
        ours, theirs = socket.socketpair()
        with theirs:
            self.pid = await asyncio.to_thread(self._maker.fork, theirs, self._words())
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                said = await channel.read(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            self.kill()
            raise ServerError(
                "The model process ended before its model was ready: its memory may "
                "not have been enough. What it printed stands above."
            ) from None
        if "error" in said:
            self.kill()
            raise _error(said)
        self.facts = said["ready"]
        self._ended.clear()
        self._used = time.monotonic()
        self.ready = True

    async def ask(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """The rows of a batch; none for an empty one, which asks for a sign of life.

        Raises:
            WorkerDied: it ended or hung; `on_death` was called.
        """
        asked = {
            "sizes": [len(item.content) for item in items],
            "wants": [item.wants for item in items],
        }
        async with self._lock:
            if not self.ready or self._writer is None:
                raise WorkerDied
            self._used = time.monotonic()
            try:
                async with asyncio.timeout(self.settings.worker_timeout):
                    content = b"".join(item.content for item in items)
                    self._writer.write(channel.pack(asked, content))
                    await self._writer.drain()
                    answer = await channel.read(self._reader)
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                self._died()
                raise WorkerDied from None
            self._used = time.monotonic()
            return answer["rows"]

    async def keep(self) -> None:
        """Start it again whenever it ended.

        Raises:
            ServerError: it ended too often.
        """
        while True:
            await self._wait_for_end()
            while not self.ready:
                self._require_some_life()
                try:
                    await self.start()
                except errors.VitralError as error:
                    print(f"vitral serve: {error}", file=sys.stderr, flush=True)
                    self.deaths.append(time.monotonic())

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.ready = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.pid = 0

    def close(self) -> None:
        """End the process and the one that made it."""
        self.kill()
        if self._maker is not None:
            self._maker.close()

    async def _wait_for_end(self) -> None:
        """Until a question failed, an idle process ended, or it gave no sign of life.

        While it is asked, the question sees its end; between two, this does.
        """
        while self.ready:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), 0.1)
            if self._ended.is_set() or self._lock.locked():
                continue
            if self._reader.at_eof():
                self._died()
            elif time.monotonic() - self._used > _PULSE:
                with contextlib.suppress(WorkerDied):
                    await self.ask([])

    def _died(self) -> None:
        if not self.ready:
            return
        self.kill()
        self.deaths.append(time.monotonic())
        self._ended.set()
        self.on_death()

    def _require_some_life(self) -> None:
        if len(self.deaths) == DEATHS and self.deaths[-1] - self.deaths[0] <= WINDOW:
            raise ServerError(
                f"The model process ended {DEATHS} times within {WINDOW:g} seconds; "
                "the server stops, since starting it again does not help. Look for "
                "the cause above: memory, or an image that ends it."
            )

    def _words(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "run": settings.run,
            "merge": settings.merge,
            "merge_schedule": settings.merge_schedule,
            "max_batch": settings.max_batch,
            "max_pixels": settings.max_pixels,
            "threads": settings.threads or _cores(),
        }


class _Maker:
    """The process that forks the workers."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        # Two arenas: with one a thread, memory grows by what each decoder once needed.
        environment = os.environ | {"MALLOC_ARENA_MAX": "2"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitral.serve.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                # Ctrl-C goes to the whole group; the server answers first.
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def fork(self, connection: socket.socket, words: dict[str, Any]) -> int:
        """A new worker at the other end of `connection`, and its process number.

        Raises:
            ServerError: this process ended.
        """
        import json

        try:
            text = json.dumps(words).encode()
            socket.send_fds(self.socket, [text], [connection.fileno()])
            answer = self.socket.recv(4, socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if len(answer) < 4:
            raise ServerError(
                "The process that starts the model could not start: see what it "
                "printed above."
            )
        return int.from_bytes(answer, "big")

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()


def _error(said: dict[str, str]) -> Exception:
    """The error that the worker met, as its own class where it is one of ours."""
    kind = getattr(errors, said["error"], None) if said["error"] else None
    if isinstance(kind, type) and issubclass(kind, errors.VitralError):
        return kind(said["message"])
    return ServerError(f"The model could not be loaded: {said['message']}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
