"""Handlers of errors in the routes."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vitral.serve.errors import HTTPError, error_body


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error with the JSON of `error_body`."""

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
