"""A progress bar of downloads on a terminal; elsewhere lines in the log."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitral.weights.zoo.download import RemoteFile, Report


@contextlib.contextmanager
def download_bar() -> Iterator["Report | None"]:
    """Yield a report that draws bytes, rate and time left; None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {}

        def report(file: "RemoteFile", done: int, total: int) -> None:
            if file.label not in tasks:
                tasks[file.label] = bar.add_task(file.label, total=total or None)
            bar.update(tasks[file.label], completed=done)

        yield report
