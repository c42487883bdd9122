"""Fork server, and the worker process of the model.

The fork server imports torch and forks workers and decoders, so that a restart costs
reading weights, not importing. It runs no torch operation, since a fork loses threads.

    python -m vitral.serve.worker.main DESCRIPTOR
"""

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from vitral.errors import VitralError
from vitral.serve.worker import framing
from vitral.serve.worker.arena import map_arena
from vitral.serve.worker.child import set_up, trim

_TRIM_EVERY = 256
"""Batches between two calls of `trim`."""
_KEPT = 256
"""Processes whose end is remembered until it is asked for."""


def main(descriptor: int) -> None:
    """Fork a process for every socket received, until the server exits.

    With a socket come the memory of images and settings; a message without one asks
    how a process ended. Each is answered with a number of four bytes.
    """
    # Imported for the processes that are forked, which inherit it.
    import tifffile  # noqa: F401
    import torch  # noqa: F401
    from PIL import Image

    import vitral.serve.worker.decoder
    import vitral.serve.worker.predictor  # noqa: F401

    Image.init()  # imports the module of each format

    # A stop lets the workers finish; they exit when the server's sockets close.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control = socket.socket(fileno=descriptor)
    ended: dict[int, int] = {}
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, 65536, 2)
        if not text:
            return
        message = json.loads(text)
        if not descriptors:
            number = _wait(message["ended"], ended)
        else:
            _reap(ended)
            # `_reap` waits for it after its exit; a zombie keeps its pid until then.
            number = os.fork()
            if not number:
                control.close()
                _run_child(descriptors, message)
            for each in descriptors:
                os.close(each)
        control.sendall(number.to_bytes(4, "big"))


def _run_child(descriptors: list[int], settings: dict[str, Any]) -> None:
    """Be a decoder or the model, and exit."""
    is_decoder = "preprocess" in settings
    set_up("vitral-decoder" if is_decoder else "vitral-model")
    code = 1
    with contextlib.suppress(BaseException):
        from vitral.serve.worker import decoder

        serve = decoder.serve if is_decoder else _serve
        code = serve(socket.socket(fileno=descriptors[0]), descriptors[1], settings)
    os._exit(code)


def _wait(pid: int, ended: dict[int, int]) -> int:
    """Return the signal that ended a process, 0 if it exited."""
    if pid not in ended:
        with contextlib.suppress(ChildProcessError):
            ended[pid] = os.waitpid(pid, 0)[1]
    status = ended.pop(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _reap(ended: dict[int, int]) -> None:
    """Collect those that exited; how the last of them did is asked for."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    for pid in list(ended)[:-_KEPT]:
        del ended[pid]


def _serve(connection: socket.socket, arena: int, settings: dict[str, Any]) -> int:
    """Answer batches until the server exits."""
    import torch

    from vitral.serve.worker.decoded_image import read_images
    from vitral.serve.worker.predictor import Predictor

    torch.set_num_threads(settings["threads"])
    try:
        predictor = Predictor(
            settings["run"],
            merge=settings["merge"],
            merge_schedule=settings["merge_schedule"],
        )
        predictor.warm_up(settings["max_batch"])
    except Exception as error:
        name = type(error).__name__ if isinstance(error, VitralError) else ""
        reason = " ".join(str(error).split()) or type(error).__name__
        connection.sendall(framing.pack({"error": name, "message": reason}))
        return 1
    ready = {"ready": predictor.describe(), "task": predictor.describe_task()}
    ready["input"] = model_input = predictor.describe_input()
    connection.sendall(framing.pack(ready))
    batches, slots = 0, None
    while (frame := framing.receive(connection)) is not None:
        request, content = frame
        # The server divides it once it knows the size of an image.
        slots = slots or map_arena(arena)
        facts = request["images"]
        images = read_images(slots, model_input["shape"], facts, content)
        connection.sendall(_predict(predictor, images))
        batches += 1
        if batches % _TRIM_EVERY == 0:
            trim()
    return 0


def _predict(predictor: Any, images: Sequence[Any]) -> bytes:
    """Return the frame of rows and files; log an exception and answer it with 500."""
    from vitral.serve.worker.predictor import is_finite

    try:
        rows = predictor.predict(images)
    except Exception:
        traceback.print_exc()
        message = "The model failed on this batch; the server's log says why."
        rows = [{"refused": [500, "model_failed", message]} for _ in images]
    for index, row in enumerate(rows):
        if not is_finite(row):
            message = "The model's answer has numbers that are not finite."
            rows[index] = {"refused": [500, "not_finite", message]}
    files = [row.pop("file", None) for row in rows]
    sizes = [None if file is None else len(file) for file in files]
    return framing.pack(
        {"rows": rows, "sizes": sizes}, b"".join(file or b"" for file in files)
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
