"""Record of a training that has not ended: progress.json, and the card of its model."""

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic, write_json
from vitral.errors import ConfigError, InterruptedRun, VitralError
from vitral.progress import PROGRESS_FILE
from vitral.report import model_card
from vitral.training.distributed import get_rank


@contextmanager
def record_progress(out: Path, steps: int) -> Iterator[None]:
    """Write progress.json, and how the training stopped if it does; rank 0 writes.

    `finalize` removes it. A run that had ended before has none while it is resumed.

    Args:
        steps: updates of the whole run.
    """
    file = out / PROGRESS_FILE
    had_ended = not file.is_file() and (out / "model" / "README.md").is_file()
    if get_rank() != 0 or had_ended:
        yield
        return
    before = file.read_bytes() if file.is_file() else None
    record: dict[str, Any] = {"steps": steps}
    write_json(file, record)
    try:
        yield
    except BaseException as error:
        # A full disk must not hide why the run ends.
        with contextlib.suppress(OSError, VitralError):
            if isinstance(error, ConfigError) and before is not None:
                write_atomic(file, before)  # the resume was refused
            else:
                write_json(file, record | {"reason": _describe(error)})
            write_card(out)
        raise


def write_card(out: Path) -> None:
    """Write the card of the model; nothing where there is no model yet."""
    if (out / "model" / "config.json").is_file():
        write_atomic(out / "model" / "README.md", model_card(out))


def _describe(error: BaseException) -> str:
    """Return why a training stopped, in a few words and without a final stop."""
    if isinstance(error, InterruptedRun):
        name = signal.Signals(error.exit_code - 128).name
        word = "Ctrl-C" if name == "SIGINT" else "a time limit or `kill`"
        return f"signal {name}, as from {word}"
    text = " ".join(str(error).split())
    if isinstance(error, VitralError):
        return text.removesuffix(".")
    return f"{type(error).__name__}{': ' if text else ''}{text}".removesuffix(".")
