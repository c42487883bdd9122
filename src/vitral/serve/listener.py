"""The socket that listens, and its end without a reset connection.

Hand-written: closing a listener resets what waits in its backlog, and asyncio closes it
as it is.
"""

import contextlib
import ctypes
import socket
import struct
import sys

from vitral.errors import ServerError

_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER of Linux, which Python does not name."""
_SYN_FILTER = (
    (0x30, 0, 0, 13),  # load the byte of flags of the TCP header
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep it
)
"""Instructions of a classic packet filter: code, two jumps, value."""


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind a socket to the address, or raise ServerError."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol: asyncio disables Nagle's algorithm only if TCP is named;
        # otherwise the second packet of an answer waits 40 ms for an acknowledgement.
        listener = socket.socket(*info[:3])
    except OSError as error:
        raise ServerError(
            f"The address {host} cannot be used: {error.strerror}. Give another `host`."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(info[4])
    except OSError as error:
        listener.close()
        raise ServerError(
            f"Port {port} of {host} cannot be used: "
            f"{error.strerror}. Another server may run there: give another `port`, "
            "or 0 for any that is free."
        ) from error
    return listener


def refuse_new_connections(listener: socket.socket) -> None:
    """Let no more connections begin; those that have begun can still be accepted.

    The system drops the first packet of new ones. Their clients send it again after a
    second, and are refused once the listener is closed. A backlog of 0 also drops the
    last packet of a handshake, whose client then believes that it is connected: it is
    the way only where no packets can be filtered.
    """
    if sys.platform == "linux":
        packed = b"".join(struct.pack("HBBI", *each) for each in _SYN_FILTER)
        code = ctypes.create_string_buffer(packed, len(packed))
        program = struct.pack("HP", len(_SYN_FILTER), ctypes.addressof(code))
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
            return
    with contextlib.suppress(OSError):
        listener.listen(0)
