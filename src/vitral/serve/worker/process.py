"""One model process, and the one that forks it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from vitral import errors
from vitral.errors import ServerError
from vitral.serve.batching import Item, WorkerDied
from vitral.serve.worker import framing

_LOAD_SECONDS = 300.0


class ModelProcess:
    """A model in a process of its own. Who asks it asks one question at a time."""

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = pid
        self.model_info: dict[str, Any] = {}
        """What its model is; see `Predictor.facts`."""
        self.last_used = time.monotonic()
        """When it was asked last."""
        self._reader, self._writer = reader, writer

    @classmethod
    async def start(
        cls, fork_server: "ForkServer", options: dict[str, Any]
    ) -> "ModelProcess":
        """Fork one and wait until its model has passed its self-test.

        Args:
            options: what `worker.serve` takes.

        Raises:
            VitralError: what the model is refused for.
            ServerError: the process ended without a word.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            pid = await asyncio.to_thread(fork_server.fork, theirs, options)
        process = cls(pid, *await asyncio.open_connection(sock=ours))
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                said = await framing.read(process._reader)
            if "error" in said:
                raise _to_error(said)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            process.kill()
            raise ServerError(
                "The model process ended before its model was ready: its memory may "
                "not have been enough. What it printed stands above."
            ) from None
        except BaseException:
            process.kill()
            raise
        process.model_info = said["ready"]
        process.last_used = time.monotonic()
        return process

    async def ask(self, items: Sequence[Item], seconds: float) -> list[dict[str, Any]]:
        """The rows of a batch; none for an empty one, which asks for a sign of life.

        Raises:
            WorkerDied: it ended, or did not answer within `seconds`.
        """
        asked = {
            "sizes": [len(item.content) for item in items],
            "wants": [item.wants for item in items],
        }
        self.last_used = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                content = b"".join(item.content for item in items)
                self._writer.write(framing.pack(asked, content))
                await self._writer.drain()
                answer = await framing.read(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            raise WorkerDied from None
        self.last_used = time.monotonic()
        rows: list[dict[str, Any]] = answer["rows"]
        return rows

    def has_ended(self) -> bool:
        return self._reader.at_eof()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """The process that forks the model processes: it has torch imported already."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        # Two arenas: with one a thread, memory grows by what each decoder once needed.
        environment = os.environ | {"MALLOC_ARENA_MAX": "2"}
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "vitral.serve.worker.main",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                # Ctrl-C goes to the whole group; the server answers first.
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def fork(self, connection: socket.socket, options: dict[str, Any]) -> int:
        """A new worker at the other end of `connection`, and its process number.

        Raises:
            ServerError: this process ended.
        """
        try:
            text = json.dumps(options).encode()
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


def _to_error(reply: dict[str, str]) -> errors.VitralError:
    """The error that the worker met, as its own class where it is one of ours."""
    kind = getattr(errors, reply["error"], None) if reply["error"] else None
    if isinstance(kind, type) and issubclass(kind, errors.VitralError):
        return kind(reply["message"])
    return ServerError(f"The model could not be loaded: {reply['message']}")
