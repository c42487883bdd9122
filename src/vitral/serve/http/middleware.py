"""ASGI middleware: request ids, counters, default headers, refusal during shutdown."""

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vitral.serve.errors import error_body
from vitral.serve.http.admission import Admission
from vitral.serve.http.origin import OPEN_PATHS, OriginCheck
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
        *,
        admission: Admission,
        origin: OriginCheck,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths
        self.admission = admission
        self.origin = origin
        self.draining = False
        self.in_flight = 0
        """Requests without a complete answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = _get_request_id(scope["headers"])
        scope["request_id"] = request_id.decode()
        status = 500
        client = scope.get("client")
        is_reserved = self.admission.is_reserved(client) and (
            scope["path"] in OPEN_PATHS or not self.admission.promote(client)
        )

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message.get("headers", ()),
                    *_DEFAULT_HEADERS,
                    (b"x-request-id", request_id),
                ]
                if self.draining or is_reserved or refused:
                    headers = [h for h in headers if h[0] != b"connection"]
                    headers.append((b"connection", b"close"))
                message = message | {"headers": headers}
            await send(message)

        refused = self._find_refusal(scope, is_reserved)
        self.in_flight += 1
        try:
            if refused:
                await self._refuse(scope, send_with_headers, refused)
            else:
                await self.app(scope, receive, send_with_headers)
        finally:
            self.in_flight -= 1
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests[path, status] += 1

    def _find_refusal(
        self, scope: Scope, is_reserved: bool
    ) -> tuple[int, str, str] | None:
        """Return status, code and message for what never reaches the application."""
        path = scope["path"]
        if self.draining and path == "/predict":
            message = "The server is stopping and takes no new images. Ask another one."
            return 503, "stopping", message
        if is_reserved and path not in OPEN_PATHS:
            message = (
                "Too many connections are open. Connect again later, with fewer at a "
                "time."
            )
            return 503, "too_many_connections", message
        names = [name for name, _ in scope["headers"]]
        if b"content-length" in names and b"transfer-encoding" in names:
            message = (
                "The request has both Content-Length and Transfer-Encoding, and "
                "programs differ on which one ends it. Send one of them."
            )
            return 400, "two_lengths", message
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        foreign = self.origin.refusal(scope["method"], path, headers)
        return (403, "foreign", foreign) if foreign else None

    async def _refuse(
        self, scope: Scope, send: Send, refused: tuple[int, str, str]
    ) -> None:
        status, code, message = refused
        content = error_body(code, message, scope["request_id"])
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            *([(b"retry-after", b"1")] if status == 503 else []),
        ]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": content})


def _get_request_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the client's `x-request-id` if it is plain ASCII, else a new id."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(8).encode()
