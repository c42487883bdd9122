"""Description of the server, /openapi.json.

The models here are what all servers answer. A task adds its part, which the worker
process sends as plain data (`worker.description`).
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vitral.serve.errors import HTTPError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HeatMap(Strict):
    """Weight of each patch, 0 to 1, rows from the top."""

    method: Literal["rollout", "grad_cam"]
    rows: int
    columns: int
    values: list[list[float]]
    box: list[float] = Field(
        description="left, top, right, bottom of what the model sees, as shares of the "
        "upright image"
    )


class Model(Strict):
    name: str
    hash: str = Field(description="12 digits of the SHA-256 of the weights")


class Timing(Strict):
    """Milliseconds after the last byte of the request, and images in the batch."""

    queue_ms: float = Field(description="until its batch began, decoding included")
    decode_ms: float = Field(description="until it was decoded")
    model_ms: float
    batch: int


class Answer(Strict):
    notes: list[str] = Field(description="what was done to the file to read it")
    model: Model
    timing: Timing
    request_id: str
    outputs: list[Any] | None = None
    embedding: list[float] | None = Field(default=None, description="with embedding=1")
    map: HeatMap | None = Field(default=None, description="with map=1")


class Problem(Strict):
    """Every answer other than 200."""

    code: str = Field(description="one word that stays the same")
    message: str = Field(description="what happened and what to do")
    request_id: str


class Facts(Strict):
    """The model that answers."""

    model: str
    hash: str
    image_size: list[int] = Field(description="height, width")
    task: str
    display: dict[str, Any] = Field(description="how the page shows an answer")
    maps: bool = Field(description="whether map=1 and embedding=1 can be asked for")
    max_bytes: int
    max_pixels: int
    refused: str = Field(
        description="why the last new model was not taken; empty where it was"
    )


class State(Strict):
    status: str


_IMAGE = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "a JPEG, PNG, WEBP, BMP, GIF or TIFF image; its first bytes "
        "decide, not its Content-Type",
        "content": {
            "image/*": _IMAGE,
            "application/octet-stream": _IMAGE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}

TASK_PARAMETERS = ("top", "outputs", "logits")
"""Parameters of the query that a task has or has not; the last two mean the same."""
QUERY = ("top", "map", "embedding", "outputs", "logits")
"""Parameters of the query of /predict."""
STATUS_DESCRIPTIONS = {
    400: "not HTTP, not a form with one `image`, no bytes, or a wrong query",
    401: "the bearer token is missing or wrong",
    406: "Accept names no media type that the model's answers have",
    408: "headers or body took too long",
    411: "neither Content-Length nor chunks",
    413: "more bytes than are taken, counted while they arrive",
    415: "not an image by its first bytes, or packed",
    422: "undecodable within its seconds and bytes, too many pixels, or more than the "
    "model can give",
    429: "the queue is full, or the answer would come too late; see Retry-After",
    500: "the model failed; never because of the input",
    503: "not ready, stopping, or too much at a time; see Retry-After",
    504: "no answer within the time-out",
}


def require_query(names: Sequence[str], part: dict[str, Any]) -> None:
    """Refuse a query with a word that does nothing.

    Args:
        names: of the query of /predict, in its order.
        part: what `worker.description.describe_task` returns.

    Raises:
        HTTPError: 400, a word is unknown, stands twice, or is not for this model.
    """
    known = [name for name in QUERY if name != "top" or part.get("listed")]
    for name in names:
        if name not in known:
            reason = f"does nothing: this model takes {', '.join(known)}"
        elif names.count(name) > 1:
            reason = "stands there twice: give it once"
        else:
            continue
        message = f"`{name[:40]}` in the query {reason}."
        raise HTTPError(400, "bad_query", message)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route with these errors."""
    return {
        status: {"model": Problem, "description": STATUS_DESCRIPTIONS[status]}
        for status in statuses
    }


def add_token_security(spec: dict[str, Any], paths: Sequence[str]) -> None:
    """Mark the paths that require the bearer token."""
    schemes = spec["components"].setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer"}
    for path in paths:
        for operation in spec["paths"][path].values():
            operation["security"] = [{"token": []}]


def add_task(spec: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a server whose model has a task.

    Args:
        spec: description of any server.
        part: what `worker.description.describe_task` returns; empty for no model.
    """
    if not part:
        return spec
    spec = copy.deepcopy(spec)
    _add_fields(spec["components"]["schemas"], part)
    operation = spec["paths"]["/predict"]["post"]
    operation["summary"] = part["summary"]
    operation["parameters"] = _select_parameters(operation["parameters"], part)
    content = operation["responses"]["200"]["content"]
    for media_type, description in part["files"].items():
        file = {**_IMAGE["schema"], "description": description}
        content.setdefault(media_type, {"schema": file})
    return spec


def _add_fields(schemas: dict[str, Any], part: dict[str, Any]) -> None:
    for name in ("Answer", "Facts"):
        own = {key: _with_title(key, value) for key, value in part[name].items()}
        schemas[name]["properties"] = own | schemas[name]["properties"]
        schemas[name]["required"] = [*own, *schemas[name]["required"]]
    outputs, properties = part["outputs"], schemas["Answer"]["properties"]
    del properties["outputs"]
    kinds: dict[str, Any] = {"anyOf": [outputs["schema"], {"type": "null"}]}
    kinds["description"] = f"with {outputs['name']}=1"
    properties[outputs["name"]] = _with_title(outputs["name"], kinds)


def _select_parameters(
    parameters: list[dict[str, Any]], part: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the parameters of the query that mean something to the task."""
    texts = {part["outputs"]["name"]: part["outputs"]["description"]}
    if part["listed"]:
        texts["top"] = f"{part['listed']} to list"
    selected = []
    for item in parameters:
        name, text = item["name"], {}
        if name in texts:
            text = {"description": texts[name]}
        elif name in TASK_PARAMETERS:
            continue
        selected.append({**item, **text, "schema": {**item["schema"], **text}})
    return selected


def _with_title(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "title": name.replace("_", " ").title()}
