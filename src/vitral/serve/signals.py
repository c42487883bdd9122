"""Signal handling: SIGTERM and SIGINT stop the server, SIGHUP reloads the model.

The first stop makes /ready 503, refuses new images and answers all accepted ones. The
second one exits immediately.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from vitral.errors import VitralError
from vitral.serve.app import Service
from vitral.serve.errors import HTTPError

_QUIET_SECONDS = 0.5
"""Seconds without a request after which a stopping server closes its connections."""
_POLL_SECONDS = 0.05


class Signals:
    """Signal handlers, and the tasks that act on them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._stops = 0
        self._stop = asyncio.Event()
        self._reload_requested = asyncio.Event()
        # nohup ignores SIGHUP: closing the terminal must have no effect.
        self._detached = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._terminal = _has_terminal()

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Install the handlers while the block runs."""
        loop = asyncio.get_running_loop()
        stops = (signal.SIGTERM, signal.SIGINT)
        for signum in stops:
            loop.add_signal_handler(signum, self._on_stop, signum)
        loop.add_signal_handler(signal.SIGHUP, self._on_sighup)
        try:
            yield
        finally:
            for signum in (*stops, signal.SIGHUP):
                loop.remove_signal_handler(signum)

    async def wait_for_stop(self) -> None:
        """Return after a stop signal, when every accepted request is answered."""
        await self._stop.wait()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.service.settings.grace
        last_busy = loop.time()
        while loop.time() < deadline:
            if self.service.app.in_flight:
                last_busy = loop.time()
            elif loop.time() - last_busy >= _QUIET_SECONDS:
                return
            await asyncio.sleep(_POLL_SECONDS)
        message = "The server is stopping and could not answer in time."
        self.service.batcher.fail_all(HTTPError(503, "stopping", message, close=True))
        await asyncio.sleep(_POLL_SECONDS)

    async def reload_on_request(self) -> None:
        """Reload the model after each SIGHUP, until cancelled."""
        while True:
            await self._reload_requested.wait()
            # Cleared first: a request during the reload may mean newer files.
            self._reload_requested.clear()
            await self._reload()

    async def _reload(self) -> None:
        service = self.service
        before = service.worker.model_info
        try:
            await service.worker.reload()
        except (VitralError, OSError) as error:
            service.metrics.rejected_reloads += 1
            service.reload_error = str(error)
            _log(f"the new model was refused, weights {before['hash']} stay: {error}")
            return
        service.metrics.reloads += 1
        service.reload_error = ""
        now = describe_model(service.worker.model_info)
        _log(f"{now} answers in place of weights {before['hash']}")

    def _on_stop(self, signum: int) -> None:
        self._stops += 1
        if self._stops > 1 or not self.service.worker.ready:
            # While the model loads, nothing was accepted yet.
            self.service.worker.close()
            sys.stderr.flush()
            os._exit(128 + signum)
        self.service.app.draining = True
        self._stop.set()

    def _on_sighup(self) -> None:
        if self._terminal and not _has_terminal():
            # The terminal was closed, which also sends SIGHUP.
            if not self._detached:
                self._on_stop(signal.SIGHUP)
        elif not self.service.app.draining:
            self._reload_requested.set()


def describe_model(model_info: dict[str, Any]) -> str:
    """Return one line for the terminal: name, outputs, size, weights."""
    height, width = model_info["image_size"]
    return (
        f"{model_info['model']} ({model_info['display']['outputs']}, {height} x "
        f"{width} pixels, weights {model_info['hash']})"
    )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _log(line: str) -> None:
    print(f"vitral serve: {line}", file=sys.stderr, flush=True)
