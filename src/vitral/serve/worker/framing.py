"""Frames between server and worker: a JSON message, then bytes.

Hand-written: the server side is asyncio, which `multiprocessing.connection` is not.
"""

import asyncio
import json
import socket
import struct
from typing import Any

_HEADER = struct.Struct(">II")


def pack(message: Any, content: bytes = b"") -> bytes:
    """Return one frame."""
    text = json.dumps(message, allow_nan=False).encode()
    return _HEADER.pack(len(text), len(content)) + text + content


async def read(reader: asyncio.StreamReader) -> tuple[Any, bytes]:
    """Return the next frame.

    Raises:
        asyncio.IncompleteReadError: the peer closed the connection.
    """
    text, content = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    message = json.loads(await reader.readexactly(text))
    return message, await reader.readexactly(content)


def receive(connection: socket.socket) -> tuple[Any, bytearray] | None:
    """Wait for the next frame; return None if the peer closed the connection."""
    head = _receive_exactly(connection, _HEADER.size)
    if head is None:
        return None
    text, content = _HEADER.unpack(head)
    message = _receive_exactly(connection, text)
    data = _receive_exactly(connection, content)
    if message is None or data is None:
        return None
    return json.loads(message), data


def _receive_exactly(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, offset = memoryview(data), 0
    while offset < size:
        count = connection.recv_into(view[offset:])
        if not count:
            return None
        offset += count
    return data
