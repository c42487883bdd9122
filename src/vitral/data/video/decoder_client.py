"""Client of the video process: start it on demand, kill it on timeout, never share it.

Hand-written: torchcodec seeks exactly but does not isolate. Here a hostile video kills
decoder_process.py, not training or the server.
"""

import atexit
import importlib.util
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np

from vitral.child_process import start_python
from vitral.errors import ImageError, MissingExtraError

DEFAULT_TIMEOUT = 60.0
"""Seconds per request; generous, since a clip that times out counts as a bad file."""
MAX_BYTES = 2**32
"""Largest size in bytes of the frames of one request."""
_PROGRAM = Path(__file__).with_name("decoder_process.py")


def require_av() -> None:
    """Raise MissingExtraError unless PyAV is installed."""
    if importlib.util.find_spec("av") is None:
        raise MissingExtraError(
            "Video files are read with PyAV, which is not installed: "
            "`pip install 'vitral[video]'`. Frame folders and .npz clips need it not."
        )


def probe(
    path: Path, timeout: float = DEFAULT_TIMEOUT
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the frame times of a video file, and its height, width and notes.

    Times are in seconds after the first frame, float64 [frames], increasing; height and
    width in pixels before the rotation in the metadata.
    """
    header, content = _send_request({"path": os.fspath(path)}, timeout)
    return np.frombuffer(content, np.float64), header


def read_frames(
    path: Path, indices: list[int], timeout: float = DEFAULT_TIMEOUT
) -> np.ndarray:
    """Decode frames by index, uint8 [indices, height, width, 3]."""
    header, content = _send_request(
        {"path": os.fspath(path), "frames": indices}, timeout
    )
    return np.frombuffer(content, np.uint8).reshape(header["shape"])


class _DecoderProcess:
    """A running video process, for one request at a time."""

    def __init__(self) -> None:
        # -P: files next to decoder_process.py have the names of other packages.
        self.process = start_python(
            [str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def send(self, request: dict[str, Any], timeout: float) -> tuple[Any, bytes]:
        """Return header and content of the reply; ImageError if the process died."""
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self.process.kill()

        watch = threading.Timer(timeout, stop)
        watch.daemon = True
        watch.start()
        try:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            message = json.dumps({**request, "timeout": timeout})
            self.process.stdin.write(message.encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            header = json.loads(line)
            content = self.process.stdout.read(header["bytes"])
            if len(content) < header["bytes"]:
                raise EOFError
        except (OSError, ValueError, EOFError) as error:
            self.close()
            if timed_out.is_set():
                raise ImageError(
                    f"decoding took more than {timeout:g} seconds and was cut"
                ) from error
            raise ImageError(
                f"the video decoder died of it (exit {self.process.returncode})"
            ) from error
        finally:
            watch.cancel()
            watch.join()
        if timed_out.is_set():
            # The reply is complete, but the process was killed.
            self.close()
        return header, content

    def close(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # unwritten data has no reader
        self.process.wait()


_idle: list[_DecoderProcess] = []
_foreign: list[_DecoderProcess] = []
"""Processes of the parent, referenced so that the collector does not wait for them."""


def _send_request(request: dict[str, Any], timeout: float) -> tuple[Any, bytes]:
    require_av()
    try:
        process = _idle.pop()
    except IndexError:
        process = _DecoderProcess()
    header, content = process.send(request, timeout)
    if process.process.poll() is None:
        _idle.append(process)
    if "error" in header:
        raise ImageError(header["error"])
    return header, content


def close() -> None:
    """Terminate this process's video processes; the next clip starts another."""
    while _idle:
        _idle.pop().close()


def _forget_after_fork() -> None:
    """Give up the parent's video processes after a fork."""
    _foreign.extend(_idle)
    _idle.clear()


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
