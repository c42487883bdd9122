"""Limit on the pixels that all threads of the worker decode at a time.

An image of 32 million pixels takes 0.3 GB while it is decoded, of 16 bits more. Eight
threads with one each would end the process, and so the server.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """Pixels that may be decoded at a time; an image waits until it fits."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels fit, and hold them; more than all fit alone."""
        with self._freed:
            self._freed.wait_for(
                lambda: not self._used or self._used + pixels <= self.limit
            )
            self._used += pixels
        try:
            yield
        finally:
            with self._freed:
                self._used -= pixels
                self._freed.notify_all()
