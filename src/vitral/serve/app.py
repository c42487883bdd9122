"""FastAPI application: routes and the state that they share."""

import asyncio
import hmac
import json
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from vitral.serve import schema
from vitral.serve.batching import Batcher, Item
from vitral.serve.error_handlers import add_error_handlers
from vitral.serve.errors import HTTPError
from vitral.serve.http import (
    Admission,
    OriginCheck,
    RequestMiddleware,
    accept,
    limits,
    multipart,
)
from vitral.serve.metrics import Metrics
from vitral.serve.page import PAGE, add_page
from vitral.serve.settings import Settings
from vitral.serve.worker import Worker
from vitral.version import __version__

PATHS = frozenset(
    {"/predict", "/health", "/ready", "/metrics", "/model", "/openapi.json", *PAGE}
)
TOKEN_PATHS = ("/predict", "/model", "/metrics")
"""Paths that require the bearer token if one is set."""
_ROW = "application/json"
"""Media type of an answer that is no file."""
_CLIENT_CLOSED_REQUEST = 499
"""Status counted for requests whose client left; it is never sent."""


class Service:
    """State that the routes share."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings = settings
        self.worker = worker
        self.metrics = Metrics()
        self.batcher = Batcher(settings, worker.ask, self.metrics, worker.prepare)
        self.budget = limits.Budget(settings.max_buffered)
        self.reload_error = ""
        """Why the last reload failed; empty after a success or without a reload."""
        self.admission = Admission(settings.max_connections, settings.client_limit)
        self.app = RequestMiddleware(
            _routes(self),
            self.metrics,
            PATHS,
            admission=self.admission,
            origin=OriginCheck(settings.host, settings.allow_hosts.split(",")),
        )

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

    def choose_media_type(self, request: Request) -> str:
        """Return the media type of the answer.

        Raises:
            HTTPError: 406, the client takes none of the model's answers.
        """
        offered = (_ROW, *self.worker.task_part.get("files", ()))
        header = ",".join(request.headers.getlist("accept"))
        media_type = accept.choose_media_type(header, offered)
        if media_type:
            return media_type
        raise HTTPError(
            406,
            "not_acceptable",
            f"Accept is {header[:80]!r}, and this model's answers are "
            f"{' or '.join(offered)}: name one of these, or leave the header out.",
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
            media_type = self.choose_media_type(request)
            item = Item(
                content=content,
                wants=wants | {"media_type": media_type},
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
        if "file" in row:
            return Response(row["file"], media_type=media_type)
        row["timing"] = {
            "queue_ms": round(1000 * (item.started - arrival_time), 3),
            "decode_ms": round(1000 * (item.ready - arrival_time), 3),
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
            names = [name for name, _ in request.query_params.multi_items()]
            schema.require_query(names, self.worker.task_part)
            self.choose_media_type(request)
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
            "vitral_queue_images": self.batcher.num_waiting,
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
    add_error_handlers(app)
    _add_predict(app, service)
    _add_status(app, service)
    add_page(app)
    any_task = app.openapi()
    if service.settings.token:
        schema.add_token_security(any_task, TOKEN_PATHS)

    def describe() -> dict[str, Any]:
        # A reload may have brought a model of another task.
        return schema.add_task(any_task, service.worker.task_part)

    app.openapi = describe  # type: ignore[method-assign]
    return app


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        response_model=None,
        responses={
            200: {"model": schema.Answer},
            **schema.error_responses(
                400, 401, 406, 408, 411, 413, 415, 422, 429, 500, 503, 504
            ),
        },
        openapi_extra=schema.BODY,
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1)] = 5,
        map: Annotated[bool, Query(description="a heat map")] = False,  # noqa: A002
        embedding: Annotated[bool, Query(description="what feeds the head")] = False,
        outputs: Annotated[bool, Query()] = False,
        logits: Annotated[bool, Query()] = False,
    ) -> Response:
        wants = {"top": top, "map": map, "embedding": embedding}
        wants["outputs"] = outputs or logits
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
        service.metrics.decoder_deaths = service.worker.decoder_deaths
        text = service.metrics.render(service.gauges())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _json(value: Any) -> Response:
    return Response(json.dumps(value, allow_nan=False), media_type="application/json")
