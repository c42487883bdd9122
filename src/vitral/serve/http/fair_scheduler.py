"""Whose turn it is, of the connections with more to look at than one portion."""

import asyncio
from collections import deque
from collections.abc import Callable


class FairScheduler:
    """One at a time in each round of the loop, so that their number slows nobody."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, callback: Callable[[], None]) -> None:
        """Call it when its turn has come."""
        if not self._waiting:
            self._next_round()
        self._waiting.append(callback)

    def _run_next(self) -> None:
        go_on = self._waiting.popleft()
        if self._waiting:
            self._next_round()
        go_on()

    def _next_round(self) -> None:
        asyncio.get_running_loop().call_soon(self._run_next)
