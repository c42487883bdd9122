"""What the signals do: SIGTERM and SIGINT stop the server, SIGHUP exchanges the model.

At the first stop readiness is 503 at once and new images are refused; what was accepted
is answered. A second one ends the server immediately.
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
"""Seconds without a request after which a stopping server closes: clients with open
connections have been told by then."""
_POLL_SECONDS = 0.05


class Signals:
    """Those that came, and what is to be done about them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._stops = 0
        self._stop = asyncio.Event()
        self._reload_requested = asyncio.Event()
        # As nohup leaves it: the end of the terminal is to have no effect.
        self._detached = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._terminal = _has_terminal()

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Take the signals while the block runs."""
        loop = asyncio.get_running_loop()
        stops = (signal.SIGTERM, signal.SIGINT)
        for number in stops:
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_sighup)
        try:
            yield
        finally:
            for number in (*stops, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def wait_for_stop(self) -> None:
        """Return when a stop was asked for and every accepted request is answered."""
        await self._stop.wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + self.service.settings.grace
        quiet = loop.time()
        while loop.time() < until:
            if self.service.app.in_flight:
                quiet = loop.time()
            elif loop.time() - quiet >= _QUIET_SECONDS:
                return
            await asyncio.sleep(_POLL_SECONDS)
        message = "The server is stopping and could not answer in time."
        self.service.batcher.fail_all(HTTPError(503, "stopping", message, close=True))
        await asyncio.sleep(_POLL_SECONDS)

    async def reload_on_request(self) -> None:
        """Exchange the model whenever that was asked for, until cancelled."""
        while True:
            await self._reload_requested.wait()
            # One that is asked for meanwhile is done after this one: the files that
            # this one reads may be older.
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

    def _on_stop(self, number: int) -> None:
        self._stops += 1
        if self._stops > 1 or not self.service.worker.ready:
            # While the model is loaded nothing was accepted; the second time is final.
            self.service.worker.close()
            sys.stderr.flush()
            os._exit(128 + number)
        self.service.app.draining = True
        self._stop.set()

    def _on_sighup(self) -> None:
        if self._terminal and not _has_terminal():
            # Nobody asked for a model: the terminal was closed.
            if not self._detached:
                self._on_stop(signal.SIGHUP)
        elif not self.service.app.draining:
            self._reload_requested.set()


def describe_model(model_info: dict[str, Any]) -> str:
    """A model in words, for who reads the terminal."""
    height, width = model_info["image_size"]
    return (
        f"{model_info['model']} ({len(model_info['classes'])} classes, {height} x "
        f"{width} "
        f"pixels, weights {model_info['hash']})"
    )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _log(line: str) -> None:
    print(f"vitral serve: {line}", file=sys.stderr, flush=True)
