"""Parser for one image in a multipart form (RFC 7578), in linear time, from memory.

Hand-written: python-multipart had CVE-2024-53981, CVE-2026-24486, CVE-2026-40347,
CVE-2026-42561. At most 8 parts are allowed. The search yields to the event loop, since
near-boundaries cost 3 ms a megabyte.
"""

import asyncio
import re

from vitral.serve.errors import HTTPError

MAX_PARTS = 8
_SEARCH_BYTES = 262_144
"""Bytes searched between two yields to the event loop."""
_HEAD_BYTES = 8192
_BOUNDARY = re.compile(
    r'boundary=(?:"([^"\\]{1,70})"|([!#$%&\'*+.^_`|~0-9A-Za-z/:=?-]{1,70}))', re.I
)
_PARAMETER = re.compile(rb'\s*;\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]*))')


async def extract_image(content: bytes, content_type: str) -> bytes:
    """Return the bytes of the only field `image`, or raise HTTPError (400)."""
    images = [
        value
        for name, value in await _parse_parts(content, content_type)
        if name == b"image"
    ]
    if not images:
        raise _form_error("The form has no field `image`. Put the file there")
    if len(images) > 1:
        raise _form_error(
            f"The form has {len(images)} fields `image`. Send one request an image: "
            "those of several requests are computed together"
        )
    return images[0]


async def _parse_parts(content: bytes, content_type: str) -> list[tuple[bytes, bytes]]:
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise _form_error("Content-Type multipart/form-data names no usable boundary")
    delimiter = b"--" + (boundary[1] or boundary[2]).encode("latin-1", "replace")
    if content.startswith(delimiter):
        at = len(delimiter)
    else:
        start = await _find(content, b"\r\n" + delimiter, 0)
        if start < 0:
            raise _form_error("The boundary that Content-Type names is not in the body")
        at = start + 2 + len(delimiter)
    parts: list[tuple[bytes, bytes]] = []
    while not content.startswith(b"--", at):
        if not content.startswith(b"\r\n", at):
            raise _form_error("A boundary of the form is not followed by a new line")
        end = await _find(content, b"\r\n" + delimiter, at)
        if end < 0:
            raise _form_error("The form ends before its last boundary")
        if len(parts) == MAX_PARTS:
            raise _form_error(f"The form has more than {MAX_PARTS} parts")
        parts.append(_parse_part(content, at + 2, end))
        at = end + 2 + len(delimiter)
    return parts


async def _find(content: bytes, pattern: bytes, start: int) -> int:
    """Search as `bytes.find`, yielding to the event loop every `_SEARCH_BYTES`."""
    for begin in range(start, len(content), _SEARCH_BYTES):
        end = begin + _SEARCH_BYTES + len(pattern) - 1
        index = content.find(pattern, begin, end)
        if index >= 0:
            return index
        await asyncio.sleep(0)
    return -1


def _field_name(disposition: bytes) -> bytes:
    """Return the parameter `name`, read from the left: a value may hold its like."""
    at = disposition.find(b";")
    while at >= 0:
        match = _PARAMETER.match(disposition, at)
        if match is None:
            return b""
        if match[1].lower() == b"name":
            return match[2] if match[2] is not None else match[3]
        at = match.end()
    return b""


def _parse_part(content: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    if content.startswith(b"\r\n", start):
        return b"", content[start + 2 : end]
    gap = content.find(b"\r\n\r\n", start, min(end, start + _HEAD_BYTES))
    if gap < 0:
        raise _form_error("A part of the form has no end of its headers")
    name = b""
    for line in content[start:gap].split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            name = _field_name(value)
    return name, content[gap + 4 : end]


def _form_error(reason: str) -> HTTPError:
    return HTTPError(
        400,
        "bad_form",
        f"{reason}: `curl -F image=@photo.jpg URL/predict` shows what is expected.",
    )
