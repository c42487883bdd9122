"""Sentence about a training that has not ended, from the files of its run folder.

`progress.json` is there from the first update until the report is written: `steps`, the
updates of the whole run, and `reason` if one could still be written.
"""

import fcntl
import json
from pathlib import Path
from typing import Any

PROGRESS_FILE = "progress.json"
LOCK_FILE = "lock.json"
"""Locked by the process that trains into the folder."""
CHECKPOINT_PREFIX = "step-"


def unfinished_sentence(folder: Path) -> str:
    """Return where a training stopped, why and how to resume; empty if it ended."""
    progress = _read_object(folder / PROGRESS_FILE)
    if progress is None:
        if not _is_old_and_unfinished(folder):
            return ""
        progress = {}
    saved = _newest_checkpoint(folder / "checkpoints")
    step = max(saved, _last_step(folder / "metrics.jsonl"))
    total = progress.get("steps")
    place = f"update {step:,}" + (f" of {total:,}" if isinstance(total, int) else "")
    reason = progress.get("reason")
    if reason is None and is_locked(folder / LOCK_FILE):
        return f"The training is still running, at {place}: this is the best model yet."
    reason = reason or "without a word, as when it is killed or the machine stops"
    return f"The training stopped at {place}: {reason}. {_how_to_resume(folder, saved)}"


def is_locked(file: Path) -> bool:
    """Return whether a process holds the lock of a run folder."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_old_and_unfinished(folder: Path) -> bool:
    """Return whether a run from before progress.json lacks what its end leaves."""
    has_metrics = (folder / "metrics.jsonl").is_file()
    has_card = (folder / "model" / "README.md").is_file()
    return has_metrics and not has_card and not any(folder.glob("predictions/*.json"))


def _how_to_resume(folder: Path, saved: int) -> str:
    file = folder / "command.txt"
    command = file.read_text("utf-8").split() if file.is_file() else []
    start = f"resumes at update {saved:,}" if saved else "starts again at update 0"
    if "train" not in command:  # a script
        return f"Train with `resume` into the same folder: it {start}."
    if "--resume" not in command:
        command.append("--resume")
    return f"It {start} with: {' '.join(command)}"


def _newest_checkpoint(folder: Path) -> int:
    names = (path.name for path in folder.glob(f"{CHECKPOINT_PREFIX}*"))
    numbers = (name.removeprefix(CHECKPOINT_PREFIX) for name in names)
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _last_step(file: Path) -> int:
    """Return the step of the last whole line; 0 without one."""
    if not file.is_file():
        return 0
    for line in reversed(file.read_bytes().splitlines()):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(step, int):
            return step
    return 0


def _read_object(file: Path) -> dict[str, Any] | None:
    """Return the object of a file; empty for a damaged one, None without the file."""
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_bytes())
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
