"""Progress of a training: a live block in a terminal, plain lines in a file.

It is never a reason for a run to fail: a closed output is ignored.
"""

import contextlib
import io
import sys
import time
from collections.abc import Mapping
from typing import TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table


class Progress:
    """A context: live on a terminal, one line for each logged step otherwise."""

    def __init__(self, total: int, stream: io.TextIOBase | None = None) -> None:
        self.total = total
        # typeshed has no common type for sys.stderr and io.StringIO.
        self._stream = cast(TextIO, sys.stderr if stream is None else stream)
        self._live: Live | None = None
        self._values: dict[str, str] = {}
        self._step = 0
        self._first_step = 0
        self._start = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._stream.isatty():
            console = Console(file=self._stream)
            self._live = Live(
                console=console, get_renderable=self.render, refresh_per_second=4
            )
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def start(self, step: int) -> None:
        """Begin at `step`: the time to go counts from here."""
        self._step = self._first_step = step
        self._start = time.monotonic()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show a step on the live block; plain output shows it in `log_step`."""
        self._step = step
        self._values.update(
            {name: _format_number(value) for name, value in values.items()}
        )

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        self.update(step, values)
        if self._live is None:
            shown = "  ".join(f"{n} {_format_number(v)}" for n, v in values.items())
            self._print(f"step {step}/{self.total}  {shown}  {self._format_eta()}")

    def note(self, text: str) -> None:
        """Print a sentence that stays: an evaluation, a save, an event."""
        if self._live is None:
            self._print(text)
        else:
            self._live.console.print(text, markup=False, highlight=False)

    def set_best(self, name: str, value: float, step: int) -> None:
        self._values["best"] = f"{name} {_format_number(value)} at step {step}"

    def render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.total, completed=self._step, width=40)
        table.add_row(f"step {self._step}/{self.total}", bar)
        table.add_row("to go", self._format_eta())
        for name, value in self._values.items():
            table.add_row(name.replace("_", " "), value)
        return table

    def _format_eta(self) -> str:
        done = self._step - self._first_step
        if done == 0:
            return "ETA unknown"
        seconds = (time.monotonic() - self._start) / done * (self.total - self._step)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"ETA {hours}:{minutes:02d}:{seconds:02d}"

    def _print(self, text: str) -> None:
        # OSError from a closed pipe, ValueError from a closed file.
        with contextlib.suppress(OSError, ValueError):
            print(text, file=self._stream, flush=True)


def _format_number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
