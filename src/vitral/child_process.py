"""Start Python processes that import nothing from the working folder (CWE-427).

A data set from a stranger may hold a `json.py`. Python puts the working folder first on
the import path of `python -m` and `python -c`, and so do multiprocessing's fork server
and torch's workers. All processes of vitral start here, and none does.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import context, resource_tracker
from typing import IO, Any, Literal

StartMethod = Literal["forkserver", "spawn"]

_SAFE_PATH = "PYTHONSAFEPATH"
"""Variable by which Python 3.11 leaves the working folder out of the import path."""


def start_python(
    arguments: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: "int | IO[bytes] | None" = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start this Python with arguments, such as `-m` and a module.

    Args:
        environment: variables beside those of this process.
        pass_fds: file descriptors that stay open in it.
        new_session: keep the terminal's signals, such as that of Ctrl-C, from it.
    """
    return subprocess.Popen(
        [sys.executable, "-P", *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=os.environ | {_SAFE_PATH: "1"} | dict(environment or {}),
        pass_fds=tuple(pass_fds),
        start_new_session=new_session,
    )


def get_process_context(
    method: StartMethod, preload: Sequence[str] = ()
) -> context.BaseContext:
    """Return a context of multiprocessing whose processes start as described above.

    Those of a fork server ignore Ctrl-C, which the terminal sends to all: the parent
    ends them.

    Args:
        method: a fork server exists on Unix only; elsewhere the method is spawn.
        preload: modules that a fork server imports once, before it starts.
    """
    with _safe_path():  # else a queue of the context starts the tracker before
        if hasattr(resource_tracker, "ensure_running") and os.name == "posix":
            resource_tracker.ensure_running()
    if method not in multiprocessing.get_all_start_methods() or method == "spawn":
        return _SpawnContext()
    forkserver = _ForkServerContext()
    forkserver.set_forkserver_preload(list(preload))  # once it runs, without effect
    return forkserver


@contextlib.contextmanager
def end_children_on_interrupt() -> Iterator[None]:
    """End the processes that were started inside when Ctrl-C arrives inside."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except KeyboardInterrupt:
        started = set(multiprocessing.active_children()) - before
        for process in started:
            process.kill()
        for process in started:
            process.join()
        raise


class _SpawnProcess(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _safe_path():
            return context.SpawnProcess._Popen(process_obj)


class _SpawnContext(context.SpawnContext):
    Process = _SpawnProcess


if hasattr(context, "ForkServerContext"):

    class _ForkServerProcess(context.ForkServerProcess):
        @staticmethod
        def _Popen(process_obj: Any) -> Any:
            popen = None
            try:
                with _safe_path(), _block_interrupt():
                    popen = context.ForkServerProcess._Popen(process_obj)
            except KeyboardInterrupt:
                # Nobody knows the process yet, and it would print a traceback: what
                # it was sent ends with this process.
                if popen is not None:
                    os.kill(popen.pid, signal.SIGKILL)
                    popen.wait()
                raise
            return popen

    class _ForkServerContext(context.ForkServerContext):
        Process = _ForkServerProcess


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Set the variable for processes that start inside."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SAFE_PATH, None)
        else:
            os.environ[_SAFE_PATH] = before


@contextlib.contextmanager
def _block_interrupt() -> Iterator[None]:
    """Block SIGINT for processes that start inside, which inherit the mask.

    A signal that this process gets meanwhile is delivered at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
