"""Transport wrapper: close in two steps, pause and resume reading.

Hand-written: closing a socket with unread bytes resets it, and the client loses the
answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64_000_000


class Transport:
    """Ends its sending side first, then drops at most 64 MB within 2 seconds."""

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

    def close_now(self) -> None:
        """Close without waiting for bytes on the way."""
        self._transport.close()

    def pause(self) -> None:
        """Read nothing until `resume`, whatever `resume_reading` asks for."""
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
        """Count bytes that arrived after the close."""
        self._dropped += size
        if self._dropped > _LINGER_BYTES:
            self._transport.close()

    def close_timer(self) -> None:
        self._timer = cancel_timer(self._timer)


def cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
