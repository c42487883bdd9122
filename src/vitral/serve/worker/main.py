"""Fork server and worker process of the model.

The fork server imports torch and forks each worker, so a restart costs reading weights,
not importing. It runs no torch operation, since a fork loses threads.

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
"""Batches between two calls of `trim`."""


def main(descriptor: int) -> None:
    """Fork a worker for every socket received, until the server exits."""
    # Imported for the workers, which inherit it.
    import torch  # noqa: F401

    import vitral.serve.worker.predictor  # noqa: F401

    # A stop lets the workers finish; they exit when the server's sockets close.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control = socket.socket(fileno=descriptor)
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 65536, 1)
        _reap()
        if not message:
            return
        # `_reap` waits for it after its exit; a zombie keeps its pid until then.
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
    """Answer batches until the server exits."""
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
        name = type(error).__name__ if isinstance(error, VitralError) else ""
        reason = " ".join(str(error).split()) or type(error).__name__
        connection.sendall(framing.pack({"error": name, "message": reason}))
        return 1
    ready = {"ready": predictor.describe(), "task": predictor.describe_task()}
    connection.sendall(framing.pack(ready))
    batches = 0
    while (frame := framing.receive(connection)) is not None:
        request, content = frame
        connection.sendall(_predict(predictor, request, content))
        batches += 1
        if batches % _TRIM_EVERY == 0:
            trim()
    return 0


def _predict(predictor: Any, request: Any, content: bytearray) -> bytes:
    """Return the frame of rows and files; log an exception and answer it with 500."""
    from vitral.serve.worker.predictor import is_finite

    offset, contents = 0, []
    for size in request["sizes"]:
        contents.append(bytes(content[offset : offset + size]))
        offset += size
    try:
        rows = predictor.predict(contents, request["wants"])
    except Exception:
        traceback.print_exc()
        message = "The model failed on this batch; the server's log says why."
        rows = [{"refused": [500, "model_failed", message]} for _ in contents]
    for index, row in enumerate(rows):
        if not is_finite(row):
            message = "The model's answer has numbers that are not finite."
            rows[index] = {"refused": [500, "not_finite", message]}
    files = [row.pop("file", None) for row in rows]
    sizes = [None if file is None else len(file) for file in files]
    return framing.pack(
        {"rows": rows, "sizes": sizes}, b"".join(file or b"" for file in files)
    )


def trim() -> None:
    """Return freed memory to the system, if the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
