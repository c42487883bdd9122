"""uvicorn's HTTP/1.1 protocol with limits against slow and hostile clients.

Hand-written: without a proxy, uvicorn bounds neither the time and lines of a head, nor
unread answers, nor the parsing per client. It subclasses uvicorn's private
`H11Protocol`, so a minor release may break it.
"""

import asyncio
import re
import secrets
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitral.serve.errors import error_body
from vitral.serve.http.admission import RESERVE_SECONDS, Admission
from vitral.serve.http.fair_scheduler import FairScheduler
from vitral.serve.http.transport import Transport, cancel_timer
from vitral.serve.settings import Settings

HEAD_BYTES = 16384
"""Largest request line and headers together."""
HEAD_LINES = 101
"""The request line and 100 headers: h11 takes 5 microseconds for each."""
READ_BYTES = 16384
EVENTS_PER_TURN = 32
"""Events (heads, chunks, ends) parsed per connection before the others: half a
millisecond, where one read can contain 2,700."""
_WRITE_SECONDS = 20.0
_BLANK = re.compile(rb"\n\r?\n")
_REASON_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    503: b"Service Unavailable",
}


class HTTPProtocol(H11Protocol):
    """One connection.

    uvicorn makes the instances, so a subclass carries `settings` and what they share.
    """

    settings: Settings
    admission: Admission
    turns: FairScheduler

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn: _BoundedConnection = _BoundedConnection(h11.SERVER, HEAD_BYTES)
        self._is_waiting = False
        """Queued in `turns`, with reading paused."""
        self._refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES
        self._outer = Transport(transport, self._client_may_send)
        super().connection_made(cast(asyncio.Transport, self._outer))
        if not self.admission.admit(self):
            self._refuse(503, "too_many_connections", self._too_many())
            return
        self._start_header_timer()

    def evict(self) -> None:
        """Give the place to another connection, which does not wait."""
        if self.conn.trailing_data[0] or self.admission.is_fresh(self):
            self._refuse(503, "too_many_connections", self._too_many())
        self._outer.close_now()

    def _too_many(self) -> str:
        return (
            f"At most {self.settings.max_connections} connections are open at a time, "
            f"and {self.settings.client_limit} of one client. Connect again later."
        )

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            self._outer.discard(len(data))
            return
        super().data_received(data)
        self._update_header_timer()

    def handle_events(self) -> None:
        if self._is_waiting:
            return
        if self.conn.their_state is h11.IDLE and self._has_too_many_headers():
            self._refuse(
                400,
                "bad_request",
                f"The request has more than {HEAD_LINES - 1} headers. Send those that "
                "are needed.",
            )
            return
        self.conn.events_left = EVENTS_PER_TURN
        super().handle_events()
        if not self.conn.events_left:
            self._yield_to_others()

    def _yield_to_others(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self.admission.set_waiting(self, False)
            self._outer.pause()
            self.turns.add(self._resume)

    def _resume(self) -> None:
        self._is_waiting = False
        if self.transport.is_closing():
            return
        self.handle_events()
        if not self._is_waiting:
            self._outer.resume()
            self._update_header_timer()

    def _has_too_many_headers(self) -> bool:
        head = self.conn.trailing_data[0]
        end = _BLANK.search(head)
        return head.count(b"\n", 0, end.end() - 1 if end else None) > HEAD_LINES

    def on_response_complete(self) -> None:
        # An answer before the end of the body: do not wait for the rest.
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        # A pipelined request waits for its turn.
        if self.conn.trailing_data[0]:
            self._yield_to_others()
        super().on_response_complete()
        self._update_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.admission.remove(self)
        self._outer.close_timer()
        self._head_timer = cancel_timer(self._head_timer)
        self._write_timer = cancel_timer(self._write_timer)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(_WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._write_timer = cancel_timer(self._write_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            400,
            "bad_request",
            "The request is not HTTP/1.1 as it should be, or its headers have more "
            f"than {HEAD_BYTES} bytes: {msg}",
        )

    def _client_may_send(self) -> bool:
        """Return whether bytes may still arrive that will be dropped."""
        unread = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or self._refused
        return unread and len(self.connections) < 2 * self.settings.max_connections

    def _update_header_timer(self) -> None:
        """Run the timer only while a head is incomplete."""
        waits = self.conn.their_state is h11.IDLE and not self._is_waiting
        self.admission.set_waiting(self, waits)
        if self.conn.their_state is not h11.IDLE:
            self._head_timer = cancel_timer(self._head_timer)
        elif self.conn.trailing_data[0]:
            self._start_header_timer()

    def _start_header_timer(self) -> None:
        if self._head_timer is None:
            seconds = self.settings.head_timeout
            if self.admission.is_reserved(self.client):
                seconds = min(seconds, RESERVE_SECONDS)
            self._head_timer = self.loop.call_later(seconds, self._on_header_timeout)

    def _on_header_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.admission.is_reserved(self.client):
            self._refuse(503, "too_many_connections", self._too_many())
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
        """Answer without the application, then close."""
        self._refused = True
        request_id = secrets.token_hex(8)
        content = error_body(code, message, request_id)
        head = (
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\nx-request-id: %s\r\n"
        ) % (status, _REASON_PHRASES[status], len(content), request_id.encode())
        retry = b"retry-after: 1\r\n" if status == 503 else b""
        self.transport.write(head + retry + b"\r\n" + content)
        self.transport.close()


class _BoundedConnection(h11.Connection):
    """Reports NEED_DATA after `events_left` events."""

    events_left = EVENTS_PER_TURN

    def next_event(self) -> Any:
        if not self.events_left:
            return h11.NEED_DATA
        self.events_left -= 1
        return super().next_event()
