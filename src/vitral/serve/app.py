"""FastAPI application: routes, error handlers and the state that they share."""

import asyncio
import hmac
import json
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vitral.serve import schema
from vitral.serve.batching import Batcher, Item
from vitral.serve.errors import HTTPError, error_body
from vitral.serve.http import RequestMiddleware, limits, multipart
from vitral.serve.metrics import Metrics
from vitral.serve.settings import Settings
from vitral.serve.worker import Worker
from vitral.version import __version__

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
PATHS = frozenset(
    {"/predict", "/health", "/ready", "/metrics", "/model", "/openapi.json", *_PAGE}
)
TOKEN_PATHS = ("/predict", "/model", "/metrics")
"""Paths that require the bearer token if one is set."""
_CLIENT_CLOSED_REQUEST = 499
"""Status counted for requests whose client left; it is never sent."""


class Service:
    """State that the routes share."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings = settings
        self.worker = worker
        self.metrics = Metrics()
        self.batcher = Batcher(settings, worker.ask, self.metrics)
        self.budget = limits.Budget(settings.max_buffered)
        self.reload_error = ""
        """Why the last reload failed; empty after a success or without a reload."""
        self.app = RequestMiddleware(_routes(self), self.metrics, PATHS)

    def require_token(self, request: Request) -> None:
        """Raise HTTPError (401) unless the request carries the configured token."""
        if not self.settings.token:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(
            given.strip().encode("latin-1", "replace"), self.settings.token.encode()
        )
        if not right or scheme.lower() != "bearer":
            raise HTTPError(
                401,
                "unauthorized",
                "This server wants a token: send `Authorization: Bearer TOKEN`.",
            )

    def require_ready(self) -> None:
        """Raise HTTPError (503) while the worker restarts."""
        if not self.worker.ready:
            raise HTTPError(
                503,
                "not_ready",
                "The model is being started again. Send the image again in a moment.",
                retry_after=1,
            )

    async def predict(self, request: Request, wants: dict[str, Any]) -> Response:
        """Return the response to an image.

        Raises:
            HTTPError: any answer other than 200.
            ClientGone: the client disconnected.
        """
        content = await self._read_body(request)
        loop = asyncio.get_running_loop()
        arrival_time = loop.time()
        buffered = len(content)
        try:
            if limits.media_type(request.headers) == "form":
                content_type = request.headers["content-type"]
                content = await multipart.extract_image(content, content_type)
            limits.require_image(content)
            item = Item(
                content=content,
                wants=wants,
                arrival_time=arrival_time,
                deadline=arrival_time + self.settings.timeout,
                future=loop.create_future(),
            )
            self.batcher.submit(item)
            row = await self._wait(item, request)
        finally:
            self.budget.release(buffered)
        if "refused" in row:
            raise HTTPError(*row["refused"])
        now = loop.time()
        self.metrics.seconds.observe(now - arrival_time)
        row["timing"] = {
            "queue_ms": round(1000 * (item.started - arrival_time), 3),
            "model_ms": round(1000 * (now - item.started), 3),
            "batch": item.batch,
        }
        row["request_id"] = request.scope["request_id"]
        return _json(row)

    async def _read_body(self, request: Request) -> bytes:
        """Return the body. On an error, read what is on the way first, so that the
        client reads the reason."""
        settings = self.settings
        try:
            self.require_token(request)
            self.require_ready()
            limits.media_type(request.headers)
            limits.declared_length(request.headers, settings.max_bytes)
        except HTTPError as error:
            if error.status != 411:
                await self._discard(request, error)
            raise
        try:
            return await limits.read_body(
                request.receive,
                max_bytes=settings.max_bytes,
                seconds=settings.body_timeout,
                budget=self.budget,
            )
        except HTTPError as error:
            if error.status != 408:
                await self._discard(request, error)
            raise

    async def _discard(self, request: Request, error: HTTPError) -> None:
        ended = await limits.discard(request.receive, self.settings.max_bytes)
        error.close = not ended

    async def _wait(self, item: Item, request: Request) -> dict[str, Any]:
        """Wait for the worker's row, the time-out or a disconnect."""
        disconnect = asyncio.ensure_future(request.receive())
        futures: set[asyncio.Future[Any]] = {disconnect, item.future}
        try:
            await asyncio.wait(
                futures,
                timeout=self.settings.timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            item.is_client_gone = True
            is_gone = disconnect.done()
            disconnect.cancel()
        if item.future.done():
            return item.future.result()
        item.future.cancel()
        if is_gone:
            raise limits.ClientGone
        raise HTTPError(
            504,
            "deadline",
            f"No answer within {self.settings.timeout:g} seconds. Send the image again "
            "when the server has less to do.",
        )

    def gauges(self) -> dict[str, float]:
        """Return the current values for /metrics."""
        return {
            "vitral_queue_images": len(self.batcher.queue),
            "vitral_queue_most_images": self.batcher.max_queue_length,
            "vitral_in_flight_requests": self.app.in_flight - 1,
            "vitral_buffered_bytes": self.budget.used,
            "vitral_worker_ready": float(self.worker.ready),
        }


def _routes(service: Service) -> FastAPI:
    app = FastAPI(
        title="vitral",
        version=__version__,
        description="A Vision Transformer's answers for images.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_errors(app)
    _add_predict(app, service)
    _add_status(app, service)
    _add_page(app)
    if service.settings.token:
        schema.add_token_security(app.openapi(), TOKEN_PATHS)
    return app


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        summary="Labels and calibrated probabilities of one image",
        response_model=None,
        responses={
            200: {"model": schema.Answer},
            **schema.error_responses(
                400, 401, 408, 411, 413, 415, 422, 429, 500, 503, 504
            ),
        },
        openapi_extra=schema.BODY,
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="classes to list")] = 5,
        map: Annotated[bool, Query(description="a heat map")] = False,  # noqa: A002
        embedding: Annotated[bool, Query(description="what feeds the head")] = False,
        logits: Annotated[bool, Query(description="before calibration")] = False,
    ) -> Response:
        wants = {"top": top, "map": map, "embedding": embedding, "logits": logits}
        try:
            return await service.predict(request, wants)
        except limits.ClientGone:
            service.metrics.clients_gone += 1
            return Response(status_code=_CLIENT_CLOSED_REQUEST)


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get(
        "/health", summary="Whether the process lives", response_model=schema.State
    )
    async def health() -> Response:
        return _json({"status": "alive"})

    @app.get(
        "/ready",
        summary="Whether images are taken",
        response_model=schema.State,
        responses=schema.error_responses(503),
    )
    async def ready() -> Response:
        if service.app.draining:
            raise HTTPError(503, "stopping", "The server is stopping.", retry_after=1)
        service.require_ready()
        return _json({"status": "ready"})

    @app.get(
        "/model",
        summary="The model that answers",
        response_model=schema.Facts,
        responses=schema.error_responses(401),
    )
    async def model(request: Request) -> Response:
        service.require_token(request)
        settings = service.settings
        return _json(
            service.worker.model_info
            | {
                "max_bytes": settings.max_bytes,
                "max_pixels": settings.max_pixels,
                "refused": service.reload_error,
            }
        )

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **schema.error_responses(401)},
    )
    async def metrics(request: Request) -> Response:
        service.require_token(request)
        text = service.metrics.render(service.gauges())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    def add(path: str, name: str, media_type: str) -> None:
        content = resources.files("vitral.serve").joinpath(name).read_bytes()

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            headers = {"content-security-policy": _CONTENT_POLICY}
            return Response(content, headers=headers, media_type=media_type)

    for path, (name, media_type) in _PAGE.items():
        add(path, name, media_type)


def _add_errors(app: FastAPI) -> None:
    def respond(request: Request, error: HTTPError) -> Response:
        content = error_body(error.code, error.message, request.scope["request_id"])
        return Response(
            content,
            error.status,
            headers=error.headers(),
            media_type="application/json",
        )

    @app.exception_handler(HTTPError)
    async def _(request: Request, error: HTTPError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = first["loc"][-1] if first["loc"] else "?"
        reason = f"`{name}` in the query cannot be used: {first['msg']}."
        return respond(request, HTTPError(400, "bad_query", reason))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            message = "There is nothing here: images go to /predict, see /openapi.json."
            return respond(request, HTTPError(404, "not_found", message))
        allowed = (error.headers or {}).get("Allow", "")
        if error.status_code == 405:
            message = f"{request.method[:20]} is not allowed here, only {allowed}."
            reply = respond(request, HTTPError(405, "method_not_allowed", message))
            reply.headers["allow"] = allowed
            return reply
        code, message = "bad_request", str(error.detail)
        return respond(request, HTTPError(error.status_code, code, message))

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        message = "Something in the server failed; its log says what."
        return respond(request, HTTPError(500, "failed", message))


def _json(value: Any) -> Response:
    return Response(json.dumps(value, allow_nan=False), media_type="application/json")
