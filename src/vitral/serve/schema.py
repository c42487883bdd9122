"""Response models of /openapi.json."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


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

    queue_ms: float
    model_ms: float
    batch: int


class Answer(Strict):
    label: str
    confidence: float
    probabilities: dict[str, float] = Field(description="calibrated, best first")
    notes: list[str] = Field(description="what was done to the file to read it")
    model: Model
    timing: Timing
    request_id: str
    logits: list[float] | None = Field(default=None, description="with logits=1")
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
    classes: list[str]
    image_size: list[int] = Field(description="height, width")
    task: str
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

STATUS_DESCRIPTIONS = {
    400: "not HTTP, not a form with one `image`, no bytes, or a wrong query",
    401: "the bearer token is missing or wrong",
    408: "headers or body took too long",
    411: "neither Content-Length nor chunks",
    413: "more bytes than are taken, counted while they arrive",
    415: "not an image by its first bytes, or packed",
    422: "undecodable, too many pixels, or more than the model can give",
    429: "the queue is full, or the answer would come too late; see Retry-After",
    500: "the model failed; never because of the input",
    503: "not ready, stopping, or too much at a time; see Retry-After",
    504: "no answer within the time-out",
}


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
