"""Round-robin scheduler for connections with unparsed data.

Hand-written: uvicorn has none, so that slow or hostile clients could starve others.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class FairScheduler:
    """Runs one callback per event-loop iteration, however many wait."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, callback: Callable[[], None]) -> None:
        if not self._waiting:
            self._schedule()
        self._waiting.append(callback)

    def _run_next(self) -> None:
        callback = self._waiting.popleft()
        if self._waiting:
            self._schedule()
        callback()

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self._run_next)
