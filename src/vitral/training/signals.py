"""Stop signals: the loop stops at the end of a step, the second signal stops at once.

Handlers are those of the main thread and are put back; in another thread nothing is
installed.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Aborted(BaseException):
    """Raised by the first signal inside `StopSignals.run_abortable`."""


class StopSignals:
    """A context in which the first SIGINT or SIGTERM sets `received`."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self.received: signal.Signals | None = None
        self._abortable = False
        self._previous: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def run_abortable(self, work: Callable[[], Result]) -> Result | None:
        """Run `work`, which the first signal cuts off; None when it was cut off.

        It must leave no trace that matters when it is cut: an evaluation, not a save.
        """
        try:
            self._abortable = True
            try:
                return work() if self.received is None else None
            finally:
                self._abortable = False
        except Aborted:
            return None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A data worker inherits this handler. Ctrl-C reaches it too, and it must
            # live on: the loop needs its batch to finish the step.
            if number == signal.SIGTERM:
                raise SystemExit(128 + number)
            return
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        self.received = signal.Signals(number)
        if self._abortable:
            raise Aborted
