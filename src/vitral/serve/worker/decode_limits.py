"""Seconds and bytes that one image may take to decode, by the pixels of its header."""

import asyncio
from collections import deque
from dataclasses import dataclass

_BYTES_PER_VALUE = 8
"""Bytes for each pixel and channel. The most that was measured is 7.8, a PNG of 16-bit
colours with opacity; a JPEG takes 3.4."""
_FIXED_BYTES = 48_000_000
"""Bytes beside those of the pixels: tables of codecs, metadata, the result."""
_FIXED_SHARE = 0.125
"""Share of the seconds that an image without pixels has."""
_SMALL_SHARE = 32
"""The largest image has so many times the pixels of a small one."""


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Limits of one image, and of all large ones together."""

    max_pixels: int
    seconds: float
    """Processor time of an image of `max_pixels`."""
    channels: int

    @property
    def small_pixels(self) -> int:
        """Return the pixels of an image that is decoded without waiting for others."""
        return self.max_pixels // _SMALL_SHARE

    def seconds_of(self, pixels: int) -> float:
        """Return the processor time of an image."""
        share = pixels / self.max_pixels
        return self.seconds * (_FIXED_SHARE + (1 - _FIXED_SHARE) * share)

    def bytes_of(self, pixels: int) -> int:
        """Return the memory of an image beside its file."""
        return _FIXED_BYTES + _BYTES_PER_VALUE * max(3, self.channels) * pixels


class ByteBudget:
    """Bytes that may be in use at a time, first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until so many bytes fit, and take them; more than all fit alone."""
        if self._waiting or not self._fits(size):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            await turn
        else:
            self.used += size

    def give_back(self, size: int) -> None:
        """Free bytes, for those that wait."""
        self.used -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.used += size
                turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return not self.used or self.used + size <= self.limit
