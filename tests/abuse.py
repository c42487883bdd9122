"""What a hostile client does to HTTP, for as long as it is let.

    python tests/abuse.py PORT KIND SECONDS JPEG    # its bytes in hexadecimal digits

A process of its own with the lowest priority: a stranger computes on his own machine,
and what is measured is what the server lets him do to the others.
"""

import os
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache

IMAGE = {"content-type": "image/jpeg"}
_FORM = "multipart/form-data; boundary=b"
Connection = socket.socket
Turn = Callable[[Connection, "Pause"], None]


class Pause:
    """Ends the work of a thread when its time is over."""

    def __init__(self, until: float) -> None:
        self.until = until

    def __call__(self, seconds: float) -> bool:
        """Wait; whether there is time left."""
        left = self.until - time.monotonic()
        time.sleep(max(0.0, min(seconds, left)))
        return left > seconds


def head(length: int | str = "", path: str = "/predict", **more: str) -> bytes:
    """A POST without its body."""
    lines = {"host": "a", **IMAGE, "content-length": str(length)}
    lines |= {name.replace("_", "-"): value for name, value in more.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode()


GET = b"GET /health HTTP/1.1\r\nhost: a\r\n"
CHUNKED = head(transfer_encoding="chunked")


def slow_head(to: Connection, pause: Pause) -> None:
    to.sendall(GET + b"x: ")
    while pause(0.1):
        to.sendall(b"a")


def slow_body(to: Connection, pause: Pause) -> None:
    to.sendall(CHUNKED)
    while pause(0.05):
        to.sendall(b"1\r\n\xff\r\n")


def tiny_chunks(to: Connection, pause: Pause) -> None:
    to.sendall(CHUNKED)
    while pause(0):
        to.sendall(b"1\r\n\xff\r\n" * 10_000)


def many_headers(to: Connection, pause: Pause) -> None:
    lines = b"".join(b"x-%d: 1\r\n" % number for number in range(1000))
    while pause(0):
        to.sendall(GET + lines + b"\r\n")
        _answer(to)


def large_head(to: Connection, pause: Pause) -> None:
    to.sendall(GET + b"x: " + b"a" * 8_000_000)
    _answer(to)


def pipelining(to: Connection, pause: Pause) -> None:
    while pause(0):
        to.sendall((GET + b"\r\n") * 1000)
        seen = 0
        while seen < 1000:
            seen += _some(to).count(b"HTTP/1.1 200")


def never_reads(to: Connection, pause: Pause) -> None:
    to.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while pause(0):
        to.sendall((b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n") * 100)


def says_too_much(to: Connection, pause: Pause) -> None:
    to.sendall(head(100_000_000_000) + bytes(100_000))
    _answer(to)


def says_too_little(to: Connection, pause: Pause) -> None:
    to.sendall(head(10) + b"\xff\xd8\xff" + bytes(100_000))
    _answer(to)


def says_more_than_comes(to: Connection, pause: Pause) -> None:
    to.sendall(head(1_000_000) + bytes(1000))
    pause(0.5)


@cache
def _bomb() -> bytes:
    # Packed once: the server's cores are not to be spent on it.
    return zlib.compress(bytes(100_000_000), 9)


def gzip_bomb(to: Connection, pause: Pause) -> None:
    packed = _bomb()
    to.sendall(head(len(packed), content_encoding="gzip") + packed)
    _answer(to)


def thousand_parts(to: Connection, pause: Pause) -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="other"\r\n\r\n1\r\n'
    content = part * 1000 + b"--b--\r\n"
    while pause(0):
        to.sendall(head(len(content), content_type=_FORM) + content)
        _answer(to)


def almost_boundaries(to: Connection, pause: Pause) -> None:
    content = b"--b\r\n\r\n" + b"\r\n--" * 1_000_000 + b"\r\n--b--"
    to.sendall(head(len(content), content_type=_FORM) + content)
    _answer(to)


def half_closed(to: Connection, pause: Pause) -> None:
    to.sendall(head(1000) + b"\xff\xd8\xff")
    to.shutdown(socket.SHUT_WR)
    pause(0.05)


def gone_while_computed(to: Connection, pause: Pause) -> None:
    content = _jpeg()
    to.sendall(head(len(content)) + content)
    pause(0.004)
    # The connection is reset, not ended.
    to.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    to.close()
    pause(0.05)


def no_http(to: Connection, pause: Pause) -> None:
    to.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 1000)
    _answer(to)


def elsewhere(to: Connection, pause: Pause) -> None:
    """The control: as busy, but not with the server."""
    content = bytes(1_000_000)
    while pause(0):
        zlib.crc32(content)


KINDS: dict[str, tuple[Turn, int]] = {
    "slow_head": (slow_head, 100),
    "slow_body": (slow_body, 50),
    "tiny_chunks": (tiny_chunks, 4),
    "many_headers": (many_headers, 2),
    "large_head": (large_head, 2),
    "pipelining": (pipelining, 2),
    "never_reads": (never_reads, 4),
    "says_too_much": (says_too_much, 2),
    "says_too_little": (says_too_little, 2),
    "says_more_than_comes": (says_more_than_comes, 20),
    "gzip_bomb": (gzip_bomb, 2),
    "thousand_parts": (thousand_parts, 2),
    "almost_boundaries": (almost_boundaries, 2),
    "half_closed": (half_closed, 4),
    "gone_while_computed": (gone_while_computed, 2),
    "no_http": (no_http, 2),
    "elsewhere": (elsewhere, 2),
}
"""Each with the number of connections that it keeps busy."""


def abuse(port: int, kind: str, seconds: float) -> None:
    """Go on for so long."""
    turn, connections = KINDS[kind]
    pause = Pause(time.monotonic() + seconds)
    address = ("127.0.0.1", port)

    def work() -> None:
        while pause(0.001):
            with suppress(OSError), socket.create_connection(address, 5) as to:
                turn(to, pause)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _answer(to: Connection) -> None:
    """Read one answer, or the end."""
    if not _some(to):
        raise ConnectionResetError


def _some(to: Connection) -> bytes:
    found = to.recv(65536)
    if not found:
        raise ConnectionResetError
    return found


def _jpeg() -> bytes:
    return bytes.fromhex(sys.argv[4])


if __name__ == "__main__":
    os.nice(19)
    abuse(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
