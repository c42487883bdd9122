"""Decoder process: one image at a time, within limits of seconds and of bytes.

Forked from a process that has imported what it needs, it starts in milliseconds. An
image that takes too long, or ends a codec, ends this process and nothing else.
"""

import contextlib
import re
import resource
import signal
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitral.data import Preprocess
from vitral.data.images import count_pixels, decode
from vitral.errors import ImageError
from vitral.serve.worker import framing
from vitral.serve.worker.arena import map_arena
from vitral.serve.worker.child import trim

_TRIM_PIXELS = 1_000_000
"""Pixels of an image after which freed memory is returned to the system."""
_TIFF = (b"II*", b"MM\0", b"II+")
"""First bytes of the only format that Pillow may not open, and vitral still reads."""
_NO_MEMORY = re.compile("memory|allocate", re.IGNORECASE)


def serve(connection: socket.socket, arena: int, settings: dict[str, Any]) -> int:
    """Decode what comes, until the server exits."""
    # A core file of a crash would have the size of torch.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    decoder = _Decoder(arena, settings)
    while (frame := framing.receive(connection)) is not None:
        try:
            reply, picture = decoder.answer(frame[0], bytes(frame[1]))
        except Exception:
            traceback.print_exc()
            reply, picture = {"failed": True}, b""
        del frame
        connection.sendall(framing.pack(reply, picture))
    return 0


class _Decoder:
    def __init__(self, arena: int, settings: dict[str, Any]) -> None:
        self.preprocess = Preprocess.from_dict(settings["preprocess"])
        self.max_pixels: int = settings["max_pixels"]
        self.slots = map_arena(arena)

    def answer(
        self, request: dict[str, Any], content: bytes
    ) -> tuple[dict[str, Any], bytes]:
        """Return the reply to a request, and the picture if it is to be drawn on.

        The reply has `pixels` of the header if these are more than the request allows,
        `refused`, or `size` and `notes` of an image whose values are in the slot.
        """
        pixels = count_pixels(content, self.max_pixels if _is_tiff(content) else 0)
        if request["pixels"] < pixels <= self.max_pixels:
            return {"pixels": pixels}, b""
        try:
            with _limit(request["seconds"], request["bytes"]):
                return self._decode(content, request)
        except (ImageError, MemoryError, RuntimeError) as error:
            return {"refused": _explain(error, request["bytes"])}, b""
        finally:
            if pixels > _TRIM_PIXELS:
                trim()

    def _decode(
        self, content: bytes, request: dict[str, Any]
    ) -> tuple[dict[str, Any], bytes]:
        decoded = decode(content, self.max_pixels)
        image = decoded.image
        values = self.preprocess.load(image).numpy().reshape(-1)
        slot = np.frombuffer(self.slots, np.float32, values.size, request["slot"])
        np.copyto(slot, values)
        size = [image.height, image.width]
        picture = image.tobytes() if request["draws"] else b""
        return {"size": size, "notes": list(decoded.notes)}, picture


@contextlib.contextmanager
def _limit(seconds: float, size: int) -> Iterator[None]:
    """Limit processor time, after which the system ends this process, and memory."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = _data_bytes()
    if used:
        resource.setrlimit(resource.RLIMIT_DATA, (used + size, before[1]))
    # The default action of its signal is the end, also within a codec.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """Return the bytes that RLIMIT_DATA counts; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _explain(error: BaseException, size: int) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, MemoryError) or _NO_MEMORY.search(str(cause)):
        return f"decoding it needs more than {size / 1e6:.0f} MB of memory"
    if isinstance(error, ImageError):
        return str(error)
    raise error


def _is_tiff(content: bytes) -> bool:
    return content.startswith(_TIFF)
