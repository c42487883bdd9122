"""Handles of the worker process and of the fork server, in the server process."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from vitral import errors
from vitral.child_process import start_python
from vitral.errors import ServerError
from vitral.serve.batching import STALE, Item, WorkerDied
from vitral.serve.settings import Settings
from vitral.serve.worker import framing
from vitral.serve.worker.arena import Arena
from vitral.serve.worker.decoder_pool import DecoderPool

_LOAD_SECONDS = 300.0


class ModelProcess:
    """Handle of one worker process and its decoders; it takes one batch at a time."""

    decoders: DecoderPool

    def __init__(
        self,
        pid: int,
        arena: Arena,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid = pid
        self._arena = arena
        self.model_info: dict[str, Any] = {}
        """See `Predictor.describe`."""
        self.task_part: dict[str, Any] = {}
        """See `Predictor.describe_task`."""
        self.last_used = time.monotonic()
        """Monotonic time of the last batch."""
        self._reader, self._writer = reader, writer

    @classmethod
    async def start(
        cls, fork_server: "ForkServer", settings: Settings, options: dict[str, Any]
    ) -> "ModelProcess":
        """Fork a worker and wait until its model has passed the self-test.

        Raises:
            VitralError: the model was refused.
            ServerError: the worker exited without an answer.
        """
        server_end, worker_end = socket.socketpair()
        arena = Arena()
        with worker_end:
            pid = await asyncio.to_thread(
                fork_server.fork, worker_end, arena.descriptor, options
            )
        process = cls(pid, arena, *await asyncio.open_connection(sock=server_end))
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                reply, _ = await framing.read(process._reader)
            if "error" in reply:
                raise _to_error(reply)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            process.kill()
            raise ServerError(
                "The model process ended before its model was ready: its memory may "
                "not have been enough. What it printed stands above."
            ) from None
        except BaseException:
            process.kill()
            raise
        process.model_info, process.task_part = reply["ready"], reply["task"]
        process.decoders = DecoderPool(
            fork_server, arena, settings, reply["input"], options["cores"]
        )
        process.last_used = time.monotonic()
        return process

    async def ask(self, items: Sequence[Item], seconds: float) -> list[dict[str, Any]]:
        """Return the rows of a batch; an empty batch is a health check.

        A row whose image asks for another media type has the content as `file`.

        Raises:
            WorkerDied: it exited, or did not answer within `seconds`.
        """
        images = [item.image for item in items]
        assert all(image is not None for image in images)
        own = [
            (item.wants, image)
            for item, image in zip(items, images, strict=True)
            if image is not None and image.owner is self.decoders
        ]
        request = {
            "images": [
                {
                    "slot": image.slot,
                    "size": image.size,
                    "notes": image.notes,
                    "wants": wants,
                    "picture": bool(image.picture),
                }
                for wants, image in own
            ]
        }
        self.last_used = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                content = b"".join(image.picture for _, image in own)
                self._writer.write(framing.pack(request, content))
                await self._writer.drain()
                answer, files = await framing.read(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            raise WorkerDied from None
        self.last_used = time.monotonic()
        rows: list[dict[str, Any]] = answer["rows"]
        offset = 0
        for row, size in zip(rows, answer["sizes"], strict=True):
            if size is not None:
                row["file"] = files[offset : offset + size]
                offset += size
        answers = iter(rows)
        return [
            next(answers)
            if image is not None and image.owner is self.decoders
            else {STALE: True}
            for image in images
        ]

    def has_ended(self) -> bool:
        return self._reader.at_eof()

    def kill(self) -> None:
        """Kill the process and its decoders with SIGKILL."""
        if hasattr(self, "decoders"):
            self.decoders.close()
        self._arena.close()
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """The process that forks workers and decoders; it has imported torch already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.socket, child_end = socket.socketpair()
        with child_end:
            self.process = start_python(
                ["-m", "vitral.serve.worker.main", str(child_end.fileno())],
                pass_fds=[child_end.fileno()],
                # Two arenas: with one per thread, memory grows by each decoder's
                # maximum.
                environment={"MALLOC_ARENA_MAX": "2"},
                # Ctrl-C signals the process group; the server must answer first.
                new_session=True,
            )

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def fork(
        self, connection: socket.socket, arena: int, options: dict[str, Any]
    ) -> int:
        """Fork a worker or decoder that serves `connection`, and return its pid."""
        answer = self._ask(options, [connection.fileno(), arena])
        if answer is None:
            raise ServerError(
                "The process that starts the model could not start: see what it "
                "printed above."
            )
        return answer

    def how_ended(self, pid: int) -> int:
        """Wait until a process ended; return the signal that ended it, else 0."""
        return self._ask({"ended": pid}, []) or 0

    def _ask(self, message: dict[str, Any], descriptors: list[int]) -> int | None:
        with self._lock:
            try:
                socket.send_fds(
                    self.socket, [json.dumps(message).encode()], descriptors
                )
                answer = self.socket.recv(4, socket.MSG_WAITALL)
            except OSError:
                return None
        return int.from_bytes(answer, "big") if len(answer) == 4 else None

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()


def _to_error(reply: dict[str, str]) -> errors.VitralError:
    """Return the worker's error, in its own class if it is a `VitralError`."""
    error = getattr(errors, reply["error"], None) if reply["error"] else None
    if isinstance(error, type) and issubclass(error, errors.VitralError):
        return error(reply["message"])
    return ServerError(f"The model could not be loaded: {reply['message']}")
