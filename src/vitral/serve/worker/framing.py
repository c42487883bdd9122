"""Frames between the server and the model process: JSON, and bytes behind it."""

import asyncio
import json
import socket
import struct
from typing import Any

_HEADER = struct.Struct(">II")


def pack(message: Any, content: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(message, allow_nan=False).encode()
    return _HEADER.pack(len(text), len(content)) + text + content


async def read(reader: asyncio.StreamReader) -> Any:
    """The message of the next frame; its bytes are dropped.

    Raises:
        asyncio.IncompleteReadError: the other side is gone.
    """
    text, content = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    message = json.loads(await reader.readexactly(text))
    await reader.readexactly(content)
    return message


def receive(connection: socket.socket) -> tuple[Any, bytearray] | None:
    """The next frame, blocking; None where the other side is gone."""
    head = _receive_exactly(connection, _HEADER.size)
    if head is None:
        return None
    text, content = _HEADER.unpack(head)
    message, rest = (
        _receive_exactly(connection, text),
        _receive_exactly(connection, content),
    )
    if message is None or rest is None:
        return None
    return json.loads(message), rest


def _receive_exactly(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        got = connection.recv_into(view[at:])
        if not got:
            return None
        at += got
    return data
