"""Asking the video process: started when needed, cut when it hangs, never shared.

What the process does is in decoder_process.py.
"""

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitral.errors import ImageError, MissingExtraError

DEFAULT_TIMEOUT = 60.0
"""Seconds for one clip; a cut clip is a bad file, so this must not depend on luck."""
MAX_BYTES = 2**32
"""Of the frames that one clip may ask for."""
_PROGRAM = Path(__file__).with_name("decoder_process.py")


class VideoInfo(NamedTuple):
    """What a video file says of itself."""

    times: np.ndarray
    """Seconds after the first frame, float64 [frames], rising."""
    height: int
    """Before any turn that the file asks for, as `width`."""
    width: int
    notes: tuple[str, ...]


def require_av() -> None:
    """Raises MissingExtraError unless PyAV is installed."""
    if importlib.util.find_spec("av") is None:
        raise MissingExtraError(
            "Video files are read with PyAV, which is not installed: "
            "`pip install 'vitral[video]'`. Frame folders and .npz clips need it not."
        )


def probe(path: Path, timeout: float = DEFAULT_TIMEOUT) -> VideoInfo:
    """Which frames a video file has, read from its container.

    Raises:
        ImageError: it is no video, has no frame, or took longer than `timeout`.
    """
    header, content = _send_request({"path": os.fspath(path)}, timeout)
    return VideoInfo(
        np.frombuffer(content, np.float64),
        header["height"],
        header["width"],
        tuple(header["notes"]),
    )


def read_frames(
    path: Path, indices: list[int], timeout: float = DEFAULT_TIMEOUT
) -> np.ndarray:
    """The frames of these numbers, uint8 [wanted, height, width, 3].

    Raises:
        ImageError: one cannot be decoded, or it took longer than `timeout`.
    """
    header, content = _send_request(
        {"path": os.fspath(path), "frames": indices}, timeout
    )
    return np.frombuffer(content, np.uint8).reshape(header["shape"])


class _DecoderProcess:
    """A running video process; one request at a time."""

    def __init__(self) -> None:
        # -P: next to decoder_process.py lie files that carry the names of other
        # packages.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def send(self, request: dict[str, Any], timeout: float) -> tuple[Any, bytes]:
        """Raises ImageError; the process is dead after a time-out or a crash."""
        cut = threading.Event()

        def stop() -> None:
            cut.set()
            self.process.kill()

        watch = threading.Timer(timeout, stop)
        watch.daemon = True
        watch.start()
        try:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            words = json.dumps({**request, "timeout": timeout})
            self.process.stdin.write(words.encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            header = json.loads(line)
            content = self.process.stdout.read(header["bytes"])
            if len(content) < header["bytes"]:
                raise EOFError
        except (OSError, ValueError, EOFError) as error:
            self.close()
            if cut.is_set():
                raise ImageError(
                    f"decoding took more than {timeout:g} seconds and was cut"
                ) from error
            raise ImageError(
                f"the video decoder died of it (exit {self.process.returncode})"
            ) from error
        finally:
            watch.cancel()
            watch.join()
        if cut.is_set():
            # Too late to lose the answer, but nobody is left for the next question.
            self.close()
        return header, content

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was still to be written has no reader
        self.process.wait()


_idle: list[_DecoderProcess] = []
_foreign: list[_DecoderProcess] = []
"""A parent's, kept from the collector, which would wait for them."""


def _send_request(request: dict[str, Any], timeout: float) -> tuple[Any, bytes]:
    require_av()
    try:
        child = _idle.pop()
    except IndexError:
        child = _DecoderProcess()
    header, content = child.send(request, timeout)
    if child.is_alive():
        _idle.append(child)
    if "error" in header:
        raise ImageError(header["error"])
    return header, content


def close() -> None:
    """End the video processes of this process; the next clip starts another."""
    while _idle:
        _idle.pop().close()


def _forget_after_fork() -> None:
    """A forked process must not take part in its parent's conversation."""
    _foreign.extend(_idle)
    _idle.clear()


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
