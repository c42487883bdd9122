"""Limits of a request body: size, counted while it arrives, and format, by first bytes.

The worker limits the pixels, from the image's header, before it decodes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vitral.serve.errors import HTTPError

Receive = Callable[[], Awaitable[Any]]

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_DISCARD_SECONDS = 1.0


class ClientGone(Exception):
    """The client disconnected before its answer."""


class Budget:
    """Limit on the bytes of all buffered bodies together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def acquire(self, size: int) -> None:
        """Reserve `size` bytes, or raise HTTPError (503)."""
        if self.used + size > self.limit:
            raise HTTPError(
                503,
                "busy",
                f"The server holds {self.used:,} bytes of requests already and takes "
                f"at most {self.limit:,}. Send the image again later.",
                retry_after=1,
                close=True,
            )
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size


def is_image(content: bytes) -> bool:
    """Return whether the first bytes are those of a format that vitral decodes."""
    if content[:4] == b"RIFF":
        return content[8:12] == b"WEBP"
    return content.startswith(_SIGNATURES) or content.startswith(_TIFF_SIGNATURES)


def require_image(content: bytes) -> None:
    """Raise HTTPError (415; 400 for no bytes) unless `content` starts as an image."""
    if not content:
        raise HTTPError(
            400, "empty_image", "The image has no bytes. Send the content of a file."
        )
    if not is_image(content):
        raise HTTPError(
            415,
            "unsupported_image",
            "The content does not begin as a JPEG, PNG, WEBP, BMP, GIF or TIFF image "
            "does. Send the bytes of the file as they are, not as text.",
        )


def media_type(headers: Mapping[str, str]) -> str:
    """Return `image` for an image body, `form` for multipart; else raise HTTPError."""
    if "content-length" not in headers and "transfer-encoding" not in headers:
        raise HTTPError(
            411,
            "length_required",
            "The request has no body that HTTP could find: it needs Content-Length, or "
            "Transfer-Encoding: chunked.",
        )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPError(
            415,
            "unsupported_encoding",
            f"Content-Encoding {encoding[:40]!r} is not taken: images are packed "
            "already. Send the bytes of the file as they are.",
        )
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return "form"
    if content_type in ("", "application/octet-stream"):
        return "image"
    if content_type.startswith("image/"):
        return "image"
    raise HTTPError(
        415,
        "unsupported_media_type",
        f"Content-Type {content_type[:60]!r} is not taken: send image bytes with "
        "`Content-Type: image/jpeg` (or another image type), or a multipart form with "
        "the field `image`.",
    )


def declared_length(headers: Mapping[str, str], max_bytes: int) -> int:
    """Return Content-Length, 0 without it; raise HTTPError (413) above `max_bytes`."""
    # h11 has refused what is not a number.
    length = int(headers.get("content-length", "0"))
    if length > max_bytes:
        raise _too_large(max_bytes, f"says that it has {length:,}")
    return length


async def read_body(
    receive: Receive, *, max_bytes: int, seconds: float, budget: Budget
) -> bytes:
    """Return the whole body. The caller releases its bytes to `budget`.

    Raises:
        HTTPError: 408, 413, 503: too slow, too large, or `budget` is exhausted.
        ClientGone: the connection closed before the body was complete.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece = message.get("body", b"")
                if piece:
                    budget.acquire(len(piece))
                    size += len(piece)
                    pieces.append(piece)
                if size > max_bytes:
                    raise _too_large(max_bytes, "has more")
                if not message.get("more_body", False):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError:
        budget.release(size)
        raise HTTPError(
            408,
            "slow_body",
            f"The body did not arrive within {seconds:g} seconds: {size:,} bytes came. "
            "Send it faster, or a smaller image.",
            close=True,
        ) from None
    except BaseException:
        budget.release(size)
        raise


async def discard(receive: Receive, max_bytes: int) -> bool:
    """Drop the rest of a body for at most 1 second; return whether it was complete.

    Closing a connection while bytes arrive resets it, and the client never reads the
    error.
    """
    size = 0
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while size <= max_bytes:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        return False
    return False


def _too_large(max_bytes: int, says: str) -> HTTPError:
    return HTTPError(
        413,
        "too_large",
        f"The body {says} bytes; at most {max_bytes:,} are taken. Send a smaller "
        "image: the model shrinks it anyway.",
        close=True,
    )
