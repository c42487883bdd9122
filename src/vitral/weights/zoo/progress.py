"""Progress of a download as lines: bytes, rate and the time that is left."""

import logging
import time

from vitral.weights.zoo.download import RemoteFile

logger = logging.getLogger(__name__)
SMALL = 1_000_000
"""Bytes of a file that needs no line."""
STEPS = 10
"""Lines of a file."""


class ProgressLog:
    """Log a line at the start of each large file, and with each tenth of it."""

    def __init__(self) -> None:
        self._label = ""
        self._start = (0.0, 0)
        self._step = 0

    def __call__(self, file: RemoteFile, done: int, total: int) -> None:
        if max(total, done) < SMALL:
            return
        now = time.monotonic()
        if file.label != self._label:
            self._label, self._start = file.label, (now, done)
            self._step = done * STEPS // max(total, 1)
            size = f"{total / 1e6:,.0f} MB" if total else "a size that is not known"
            logger.info("%s: %s", file.label, size)
            return
        step = done * STEPS // total if total else done // (STEPS * SMALL)
        if step > self._step:
            self._step = step
            logger.info("%s: %s", file.label, describe(now, done, total, self._start))


def describe(now: float, done: int, total: int, start: tuple[float, int]) -> str:
    """Return bytes, rate and remaining time in words.

    Args:
        start: time and bytes at the first report.
    """
    rate = (done - start[1]) / max(now - start[0], 1e-9)
    words = f"{done / 1e6:,.0f} MB"
    if total:
        words = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
    words += f", {rate / 1e6:.1f} MB/s"
    if total > done and rate > 0:
        seconds = round((total - done) / rate)
        words += f", {seconds // 60}:{seconds % 60:02d} left"
    return words
