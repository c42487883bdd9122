"""The image of a multipart form (RFC 7578) that is in memory as a whole.

Parts are found by searching for the boundary, so the time is linear in the bytes
whatever they are, and a number of parts above a handful is refused. Others are served
while a large body is searched: bytes that almost are boundaries take 3 ms a megabyte.
"""

import asyncio
import re

from vitral.serve.errors import HTTPError

MAX_PARTS = 8
_SEARCH_BYTES = 262_144
"""Bytes that are searched at a time."""
_HEAD_BYTES = 8192
_BOUNDARY = re.compile(
    r'boundary=(?:"([^"\\]{1,70})"|([!#$%&\'*+.^_`|~0-9A-Za-z/:=?-]{1,70}))', re.I
)
_NAME = re.compile(rb';\s*name=(?:"([^"]*)"|([^;\s"]+))', re.I)


async def extract_image(content: bytes, content_type: str) -> bytes:
    """The bytes of the one field `image`.

    Raises:
        Problem: 400: the form is broken, has no such field, several, or many parts.
    """
    found = [
        value
        for name, value in await _parse_parts(content, content_type)
        if name == b"image"
    ]
    if not found:
        raise _form_error("The form has no field `image`. Put the file there")
    if len(found) > 1:
        raise _form_error(
            f"The form has {len(found)} fields `image`. Send one request an image: "
            "those of several requests are computed together"
        )
    return found[0]


async def _parse_parts(content: bytes, content_type: str) -> list[tuple[bytes, bytes]]:
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise _form_error("Content-Type multipart/form-data names no usable boundary")
    mark = b"--" + (boundary[1] or boundary[2]).encode("latin-1", "replace")
    if content.startswith(mark):
        at = len(mark)
    else:
        start = await _find(content, b"\r\n" + mark, 0)
        if start < 0:
            raise _form_error("The boundary that Content-Type names is not in the body")
        at = start + 2 + len(mark)
    parts: list[tuple[bytes, bytes]] = []
    while not content.startswith(b"--", at):
        if not content.startswith(b"\r\n", at):
            raise _form_error("A boundary of the form is not followed by a new line")
        end = await _find(content, b"\r\n" + mark, at)
        if end < 0:
            raise _form_error("The form ends before its last boundary")
        if len(parts) == MAX_PARTS:
            raise _form_error(f"The form has more than {MAX_PARTS} parts")
        parts.append(_parse_part(content, at + 2, end))
        at = end + 2 + len(mark)
    return parts


async def _find(content: bytes, pattern: bytes, start: int) -> int:
    """As `bytes.find`, with a turn for others after every stretch."""
    for begin in range(start, len(content), _SEARCH_BYTES):
        end = begin + _SEARCH_BYTES + len(pattern) - 1
        found = content.find(pattern, begin, end)
        if found >= 0:
            return found
        await asyncio.sleep(0)
    return -1


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
            match = _NAME.search(value)
            name = (match[1] or match[2] or b"") if match else b""
    return name, content[gap + 4 : end]


def _form_error(reason: str) -> HTTPError:
    return HTTPError(
        400,
        "bad_form",
        f"{reason}: `curl -F image=@photo.jpg URL/predict` shows what is expected.",
    )
