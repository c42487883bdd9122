"""One run a folder at a time: a lock that the kernel lets go of when its owner dies.

The lock is flock on `lock.json`, whose text says who holds it. A killed run leaves the
file behind and not the lock, so the next one takes it without asking anybody.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from vitral.errors import ConfigError
from vitral.run.claim import LOCK, claim, remove_leftovers
from vitral.run.config import TrainConfig
from vitral.training.distributed import from_first

UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system without locks answers."""
LETTING_GO = 20.0
"""Seconds in which what a dead owner was starting lets go of its lock."""
WRITING = 1.0
"""Seconds in which the owner of a lock has written its name."""


_HOLDING: ContextVar[frozenset[Path]] = ContextVar("holding", default=frozenset())
"""The folders that this thread's callers hold already."""


@contextmanager
def held(config: TrainConfig, out: Path, resume: bool) -> Iterator[bool]:
    """Claim the folder and lock it; all ranks of one start share what rank 0 holds.

    Inside itself, for the same folder, it does not wait for itself.

    Yields:
        whether to resume: as asked, or because torchrun started the ranks again.

    Raises:
        ConfigError: `out` cannot be this run's, or another process is in it.
    """
    with ExitStack() as stack:
        yield from_first(lambda: _taken(stack, config, out, resume))


def _taken(stack: ExitStack, config: TrainConfig, out: Path, resume: bool) -> bool:
    file = out / LOCK
    inside = file.resolve() in _HOLDING.get()
    if not inside:
        refuse_held(file)
    resume = resume or restarted(file)
    # Before anything is written into a folder that may be somebody else's.
    claim(config, out, resume)
    if not inside:
        stack.enter_context(locked(file))
        claim(config, out, resume)  # another run may have come and gone meanwhile
        remove_leftovers(out)
    return resume


def restarted(file: Path) -> bool:
    """Whether torchrun started this run again, after a rank died or nodes changed."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0:
        return True
    # Where nodes come and go torchrun does not count; the start's id stays.
    number = _run_id()
    return bool(number) and _read(file).get("torchrun") == number


def refuse_held(file: Path) -> None:
    """Raise if another process holds the lock."""
    missing = (FileNotFoundError, NotADirectoryError)
    with contextlib.suppress(*missing), file.open("rb") as opened:
        if not _comes_free(opened.fileno(), file):
            raise ConfigError(_refusal(file))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock; the file goes with it, unless torchrun may start this run again.

    Raises:
        ConfigError: another process holds it.
    """
    descriptor = _opened(file)
    before = _HOLDING.set(_HOLDING.get() | {file.resolve()})
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname()}
        text = json.dumps(about | {"torchrun": _run_id()}) + "\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
        file.unlink(missing_ok=True)
    except BaseException:
        if not _run_id():
            file.unlink(missing_ok=True)
        raise
    finally:
        _HOLDING.reset(before)
        os.close(descriptor)


def _opened(file: Path) -> int:
    """The locked file itself: not one that its last owner has just removed."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        if not _comes_free(descriptor, file):
            os.close(descriptor)
            raise ConfigError(_refusal(file))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor
        os.close(descriptor)


def _comes_free(descriptor: int, file: Path) -> bool:
    """Take the lock, at once or when the last of a dead owner lets go of it.

    A process that was killed while it started another leaves a copy of itself, with
    the lock, until that has become the other program.
    """
    deadline = time.monotonic() + LETTING_GO
    while not _locks(descriptor):
        if not _owner_is_gone(file) or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _owner_is_gone(file: Path) -> bool:
    """Whether the process that wrote its name was on this machine and has ended."""
    about = _read(file)
    owner = about.get("pid")
    if about.get("host") != socket.gethostname() or not isinstance(owner, int):
        return False
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _locks(descriptor: int) -> bool:
    """Take the lock, if nobody holds it; a file system without locks has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return True


def _refusal(file: Path) -> str:
    deadline = time.monotonic() + WRITING
    while not (about := _read(file)) and time.monotonic() < deadline:
        time.sleep(0.01)
    owner = f"process {about.get('pid', '?')} on {about.get('host', 'unknown host')}"
    return (
        f"The output folder {file.parent} is in use by {owner}: wait until that run "
        "has ended, stop it, or give another `--out`."
    )


def _read(file: Path) -> dict[str, Any]:
    """What the file says; nothing where it is missing or not written yet."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _run_id() -> str:
    """The id of torchrun's start, empty without one; its default is "none"."""
    found = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if found == "none" else found
