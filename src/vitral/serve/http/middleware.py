"""ASGI middleware: request ids, counters, default headers, refusal during shutdown."""

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vitral.serve.errors import error_body
from vitral.serve.metrics import Metrics

_REQUEST_ID = re.compile(rb"[\w.:-]{1,64}")
_DEFAULT_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class RequestMiddleware:
    """Outermost layer of the application."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        metrics: Metrics,
        paths: frozenset[str],
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths
        self.draining = False
        self.in_flight = 0
        """Requests without a complete answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = _get_request_id(scope["headers"])
        scope["request_id"] = request_id.decode()
        status = 500

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message.get("headers", ()),
                    *_DEFAULT_HEADERS,
                    (b"x-request-id", request_id),
                ]
                if self.draining:
                    headers = [h for h in headers if h[0] != b"connection"]
                    headers.append((b"connection", b"close"))
                message = message | {"headers": headers}
            await send(message)

        self.in_flight += 1
        try:
            if self.draining and scope["path"] == "/predict":
                await self._refuse(scope, send_with_headers)
            else:
                await self.app(scope, receive, send_with_headers)
        finally:
            self.in_flight -= 1
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests[path, status] += 1

    async def _refuse(self, scope: Scope, send: Send) -> None:
        content = error_body(
            "stopping",
            "The server is stopping and takes no new images. Ask another one.",
            scope["request_id"],
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"retry-after", b"1"),
        ]
        start = {"type": "http.response.start", "status": 503, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": content})


def _get_request_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the client's `x-request-id` if it is plain ASCII, else a new id."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(8).encode()
