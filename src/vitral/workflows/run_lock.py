"""Exclusive lock on a run folder (`flock`); the kernel releases it when its owner dies.

Hand-written: filelock released locks after a fork until July 2026 (filelock#634), names
no owner in its error and knows no restart of torchrun. A killed run leaves the file.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vitral import config_io
from vitral.atomic_io import TEMPORARY_SUFFIX, make_folder, open_unlinked
from vitral.errors import ConfigError, VitralError, WeightsError
from vitral.training.distributed import broadcast_from_rank_zero
from vitral.workflows.config import VOLATILE, read_config

LOCK_FILE = "lock.json"
"""Names the process that trains into the folder."""
START_FILES = ("split.csv", "contents.csv")
"""Files that a run writes before its config."""
LEFTOVERS = ("log.txt", *START_FILES, LOCK_FILE)
"""Files of a run that ended before its config was written."""
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PERMISSION_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
UNSUPPORTED_ERRNOS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of a file system without locks."""
RELEASE_TIMEOUT = 20.0
"""Seconds in which a process that a dead owner was starting releases its lock."""
OWNER_WRITE_TIMEOUT = 1.0
"""Seconds in which the owner of a lock has written its name."""


_HELD_LOCKS: ContextVar[frozenset[Path]] = ContextVar("holding", default=frozenset())
"""The folders that this thread's callers hold already."""


@contextmanager
def lock_run_folder(
    settings: dict[str, Any], out: Path, resume: bool
) -> Iterator[bool]:
    """Check the folder and lock it; all ranks of one start share the lock of rank 0.

    Inside itself, for the same folder, it does not wait for itself.

    Args:
        settings: of config.json.

    Yields:
        whether to resume: as asked, or because torchrun started the ranks again.

    Raises:
        ConfigError: `out` cannot be this run's, or another process is in it.
    """
    with ExitStack() as stack:
        yield broadcast_from_rank_zero(
            lambda: _claim_and_lock(stack, settings, out, resume)
        )


def _claim_and_lock(
    stack: ExitStack, settings: dict[str, Any], out: Path, resume: bool
) -> bool:
    file = out / LOCK_FILE
    inside = file.resolve() in _HELD_LOCKS.get()
    if not inside:
        require_unlocked(file)
    resume = resume or is_torchrun_restart(file)
    # Before anything is written into a folder that may be somebody else's.
    require_usable_folder(settings, out, resume)
    if not inside:
        stack.enter_context(lock_file(file))
        # Another run may have started and ended meanwhile.
        require_usable_folder(settings, out, resume)
        remove_leftovers(out)
        if not (out / "config.json").is_file():
            _forget_refused_start(stack, out, resume)
    return resume


def _forget_refused_start(stack: ExitStack, out: Path, resume: bool) -> None:
    """Remove the files of a start that ended before its config was written.

    A new start would take their split. A resumed one keeps it, and removes at its own
    refusal only what it wrote itself.
    """
    files = [out / name for name in START_FILES]
    if not resume:
        for file in files:
            file.unlink(missing_ok=True)
    written = [file for file in files if not file.exists()]

    def remove_written(failed: object, *_: object) -> None:
        # Of a refusal: after a kill or a signal torchrun may start the ranks again.
        refused = isinstance(failed, type) and issubclass(failed, VitralError)
        if refused and not (out / "config.json").is_file():
            for file in written:
                file.unlink(missing_ok=True)

    stack.push(remove_written)


def is_torchrun_restart(file: Path) -> bool:
    """Return whether torchrun restarted this run: a rank died or nodes changed."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0:
        return True
    # Where nodes come and go torchrun does not count; the start's id stays.
    number = _run_id()
    return bool(number) and _read_owner(file).get("torchrun") == number


def require_unlocked(file: Path) -> None:
    _require_no_link(file)
    missing = (FileNotFoundError, NotADirectoryError)
    with contextlib.suppress(*missing), file.open("rb") as opened:
        if not _acquire(opened.fileno(), file):
            raise ConfigError(_in_use_message(file))


def _require_no_link(file: Path) -> None:
    if file.is_symlink():
        raise ConfigError(
            f"{file} is a link, and the lock of a run must be a file of its own: "
            "writing would change the file that it names. Remove the link."
        )


@contextmanager
def lock_file(file: Path) -> Iterator[None]:
    """Hold the lock; remove its file at the end unless torchrun may restart."""
    descriptor = _open_locked(file)
    before = _HELD_LOCKS.set(_HELD_LOCKS.get() | {file.resolve()})
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        text = json.dumps(owner | {"torchrun": _run_id()}) + "\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
        file.unlink(missing_ok=True)
    except BaseException:
        if not _run_id():
            file.unlink(missing_ok=True)
        raise
    finally:
        _HELD_LOCKS.reset(before)
        os.close(descriptor)


def _open_locked(file: Path) -> int:
    """Open and lock the file itself: not one that its last owner has just removed."""
    while True:
        _require_no_link(file)
        descriptor = open_unlinked(file, os.O_RDWR | os.O_CREAT)
        if not _acquire(descriptor, file):
            os.close(descriptor)
            raise ConfigError(_in_use_message(file))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor
        os.close(descriptor)


def _acquire(descriptor: int, file: Path) -> bool:
    """Take the lock, at once or when the last child of a dead owner releases it.

    A process that was killed while it started another leaves a copy of itself, with
    the lock, until that has become the other program.
    """
    deadline = time.monotonic() + RELEASE_TIMEOUT
    while not _try_flock(descriptor):
        if not _is_owner_dead(file) or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _is_owner_dead(file: Path) -> bool:
    """Return whether the process named in the file was of this machine and ended."""
    owner = _read_owner(file)
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _try_flock(descriptor: int) -> bool:
    """Try to take the lock; a file system without locks always gives it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED_ERRNOS:
            raise
    return True


def _in_use_message(file: Path) -> str:
    deadline = time.monotonic() + OWNER_WRITE_TIMEOUT
    while not (owner := _read_owner(file)) and time.monotonic() < deadline:
        time.sleep(0.01)
    name = f"process {owner.get('pid', '?')} on {owner.get('host', 'unknown host')}"
    return (
        f"The output folder {file.parent} is in use by {name}: wait until that run "
        "has ended, stop it, or give another `out`."
    )


def _read_owner(file: Path) -> dict[str, Any]:
    try:
        owner = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _run_id() -> str:
    """Return the id of the torchrun start; empty without torchrun."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if run_id == "none" else run_id  # torchrun's default


def require_usable_folder(settings: dict[str, Any], out: Path, resume: bool) -> None:
    """Create the run folder; refuse one of a run with other settings."""
    if not claim_folder(out, "config.json", "run", LEFTOVERS):
        return
    if not resume:
        raise ConfigError(
            f"The output folder {out} already holds a run: give another `out`, or "
            "`resume=True` to go on with it."
        )
    old = config_io.to_dict(read_config(out / "config.json"))
    for name, value in settings.items():
        if old[name] != value and name not in VOLATILE:
            raise ConfigError(
                f"The run in {out} was started with `{name}` {old[name]} and cannot go "
                f"on with {value}. Use the first settings, or another `out`."
            )


def claim_folder(out: Path, manifest: str, job: str, leftovers: Sequence[str]) -> bool:
    """Create an output folder, and return whether it holds the job of that `manifest`.

    Args:
        leftovers: files of a job that ended before its manifest was written.

    Raises:
        ConfigError: `out` cannot be made, is a file, or holds something else.
    """
    if out.is_file():
        raise ConfigError(f"`out={out}` is a file: name a folder for the {job}.")
    with translate_os_errors(out):
        make_folder(out)
    if (out / manifest).is_file():
        return True
    for file in out.iterdir():
        if file.name not in leftovers and file.suffix != TEMPORARY_SUFFIX:
            raise ConfigError(
                f"The output folder {out} holds something that is not a {job}: name "
                "another folder."
            )
    return False


def remove_leftovers(out: Path) -> None:
    """Remove what killed processes left of their last writes, as the folder's owner."""
    for file in out.rglob(f".*.[0-9]*{TEMPORARY_SUFFIX}"):
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


@contextmanager
def translate_os_errors(out: Path) -> Iterator[None]:
    """Translate a full disk or a forbidden folder into an error with a sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, VitralError):
            raise
        number = error.errno if isinstance(error, OSError) else None
        if number in PERMISSION_ERRNOS:
            raise ConfigError(
                f"{out} cannot be written ({error}): choose another `out`, or change "
                "the permissions."
            ) from error
        if isinstance(error, SafetensorError) or number in DISK_FULL_ERRNOS:
            raise WeightsError(
                f"A file of the run could not be written to {out} ({error}). Free "
                "space and run the same command with --resume; saved checkpoints are "
                "intact."
            ) from error
        raise
