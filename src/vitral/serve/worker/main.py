"""The model process, and the one that makes it.

The first process imports torch and waits. For every worker it forks: a worker that
died is back within the time that it takes to read the weights, not to import. It runs
no torch operation itself, so that no thread is lost in a fork.

    python -m vitral.serve.worker.main DESCRIPTOR
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

from vitral.errors import VitralError
from vitral.serve.worker import framing

_TRIM_EVERY = 256
"""Batches after which memory that the decoder left is given back."""


def main(descriptor: int) -> None:
    """Fork a worker for every socket that comes, until the server is gone."""
    # Imported here and never used: the workers have it then.
    import torch  # noqa: F401

    import vitral.serve.worker.predictor  # noqa: F401

    # A stop of the server lets its workers finish; they end with its sockets.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control = socket.socket(fileno=descriptor)
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 65536, 1)
        _reap()
        if not message:
            return
        # Waited for below, once it has ended; a zombie keeps its number until then.
        pid = os.fork()
        if not pid:
            control.close()
            code = 1
            with contextlib.suppress(BaseException):
                code = _serve(socket.socket(fileno=sockets[0]), json.loads(message))
            os._exit(code)
        os.close(sockets[0])
        control.sendall(pid.to_bytes(4, "big"))


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _serve(connection: socket.socket, settings: dict[str, Any]) -> int:
    """Answer batches until the server is gone."""
    import torch

    from vitral.serve.worker.predictor import Predictor

    torch.set_num_threads(settings["threads"])
    try:
        predictor = Predictor(
            settings["run"],
            merge=settings["merge"],
            merge_schedule=settings["merge_schedule"],
            max_pixels=settings["max_pixels"],
            threads=settings["threads"],
        )
        predictor.warm_up(settings["max_batch"])
    except Exception as error:
        kind = type(error).__name__ if isinstance(error, VitralError) else ""
        reason = " ".join(str(error).split()) or type(error).__name__
        connection.sendall(framing.pack({"error": kind, "message": reason}))
        return 1
    connection.sendall(framing.pack({"ready": predictor.describe()}))
    batches = 0
    while (frame := framing.receive(connection)) is not None:
        asked, content = frame
        connection.sendall(framing.pack(_predict(predictor, asked, content)))
        batches += 1
        if batches % _TRIM_EVERY == 0:
            trim()
    return 0


def _predict(predictor: Any, request: Any, content: bytearray) -> dict[str, Any]:
    """The rows of one frame; an error of ours is one, too, and its trace is printed."""
    from vitral.serve.worker.predictor import is_finite

    ends, contents = 0, []
    for size in request["sizes"]:
        contents.append(bytes(content[ends : ends + size]))
        ends += size
    try:
        rows = predictor.predict(contents, request["wants"])
    except Exception:
        traceback.print_exc()
        message = "The model failed on this batch; the server's log says why."
        rows = [{"refused": [500, "model_failed", message]} for _ in contents]
    for index, row in enumerate(rows):
        if not is_finite(row):
            message = "The model's probabilities are not finite numbers."
            rows[index] = {"refused": [500, "not_finite", message]}
    return {"rows": rows}


def trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
