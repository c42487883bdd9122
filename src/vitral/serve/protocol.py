"""uvicorn's HTTP/1.1 with the limits that it leaves out.

A connection that sends no whole head in time, or does not read its answers, is closed;
there is a number of connections beyond which a new one gets 503; reads are small, so
that a client of one-byte chunks cannot hold the others up; errors are JSON.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitral.serve.problems import body
from vitral.serve.settings import Settings

HEAD_BYTES = 16384
"""Of a request's first line and headers together."""
READ_BYTES = 16384
_WRITE_SECONDS = 20.0
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64_000_000
_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    503: b"Service Unavailable",
}


class Protocol(H11Protocol):
    """One connection."""

    settings: Settings
    """Set on a subclass, since uvicorn makes the instances."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES
        self._lingering = _Lingering(transport, self._client_may_send)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        if len(self.connections) > self.settings.max_connections:
            self._refuse(
                503,
                "too_many_connections",
                f"More than {self.settings.max_connections} connections are open. "
                "Connect again later.",
            )
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            self._lingering.drop(len(data))
            return
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        # An answer before the end of the body: what is left of it is not waited for.
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        super().on_response_complete()
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lingering.end()
        self._head_timer = _cancelled(self._head_timer)
        self._write_timer = _cancelled(self._write_timer)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(_WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._write_timer = _cancelled(self._write_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            400,
            "bad_request",
            "The request is not HTTP/1.1 as it should be, or its headers have more "
            f"than {HEAD_BYTES} bytes: {msg}",
        )

    def _client_may_send(self) -> bool:
        """Whether bytes may be on their way that nobody wants any more."""
        unread = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or self._refused
        return unread and len(self.connections) < 2 * self.settings.max_connections

    def _watch_head(self) -> None:
        """Limit the time of a head that has begun, and of no other."""
        if self.conn.their_state is not h11.IDLE:
            self._head_timer = _cancelled(self._head_timer)
        elif self.conn.trailing_data[0]:
            self._await_head()

    def _await_head(self) -> None:
        if self._head_timer is None:
            seconds = self.settings.head_timeout
            self._head_timer = self.loop.call_later(seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if not self.conn.trailing_data[0]:
            self.transport.close()
            return
        self._refuse(
            408,
            "slow_head",
            "The request's headers did not arrive within "
            f"{self.settings.head_timeout:g} seconds.",
        )

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, and close."""
        self._refused = True
        request_id = secrets.token_hex(8)
        content = body(code, message, request_id)
        head = (
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\nx-request-id: %s\r\n"
        ) % (status, _PHRASES[status], len(content), request_id.encode())
        again = b"retry-after: 1\r\n" if status == 503 else b""
        self.transport.write(head + again + b"\r\n" + content)
        self.transport.close()


class _Lingering:
    """A transport that closes in two steps where its client may still send.

    A socket that is closed with unread bytes is reset, and the client loses the answer
    that says why. So the sending side ends first; what comes is dropped for a while.
    """

    def __init__(
        self, transport: asyncio.Transport, wanted: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._wanted = wanted
        self._timer: asyncio.TimerHandle | None = None
        self._dropped = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._timer is not None or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._wanted() or not self._transport.can_write_eof():
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LINGER_SECONDS, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()

    def drop(self, number: int) -> None:
        """Bytes came after the end."""
        self._dropped += number
        if self._dropped > _LINGER_BYTES:
            self._transport.close()

    def end(self) -> None:
        self._timer = _cancelled(self._timer)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
