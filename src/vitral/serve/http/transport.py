"""The transport of a connection: an end that is heard, and reading that can be held."""

import asyncio
from collections.abc import Callable
from typing import Any

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64_000_000


class Transport:
    """A transport that closes in two steps where its client may still send.

    A socket that is closed with unread bytes is reset, and the client loses the answer
    that says why. So the sending side ends first; what comes is dropped for a while.
    """

    def __init__(
        self, transport: asyncio.Transport, client_may_send: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._client_may_send = client_may_send
        self._timer: asyncio.TimerHandle | None = None
        self._dropped = 0
        self._is_on_hold = self._paused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._timer is not None or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._client_may_send() or not self._transport.can_write_eof():
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LINGER_SECONDS, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()

    def pause(self) -> None:
        """Read nothing until `release`, whatever else is asked for."""
        self._is_on_hold = True
        self._transport.pause_reading()

    def resume(self) -> None:
        self._is_on_hold = False
        if not self._paused:
            self._transport.resume_reading()

    def pause_reading(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if not self._is_on_hold:
            self._transport.resume_reading()

    def discard(self, size: int) -> None:
        """Bytes came after the end."""
        self._dropped += size
        if self._dropped > _LINGER_BYTES:
            self._transport.close()

    def close_timer(self) -> None:
        self._timer = cancel_timer(self._timer)


def cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
