"""Trainings to be killed: one process imports torch, and forks each of them.

A fork takes milliseconds where a new interpreter takes seconds, so that dozens of kills
fit into a test. `Server.starter(kind)` gives what
`vitral.workflows.resume_check.verify` starts.

As a script, `python training_server.py DATA`, it is that process: it answers each line
of JSON with the child's number, then with its exit code.
"""

import importlib
import json
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = 16
KINDS = ("all at once", "workers 1", "workers 2", "frozen", "mae", "masked_patch")
CPU_ONLY = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}


class Child:
    """A forked training, as the Life that is watched and killed."""

    def __init__(self, server: "Server", pid: int) -> None:
        self.server, self.pid = server, pid
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None and self.server.has_answer():
            self.code = self.server.answer("exit")
        return self.code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        if self.code is None:
            self.code = self.server.answer("exit")
        return self.code


class Server:
    """The process that forks."""

    def __init__(self, data: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(data)],
            env={"PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}", **CPU_ONLY},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self._read = self.process.stdout.fileno()
        self._buffer = b""
        self.errors = data.with_name(f"{data.name}.errors.txt")

    def said(self) -> str:
        """The error that the last training ended with; empty when there was none."""
        return self.errors.read_text() if self.errors.is_file() else ""

    def start(self, out: Path, kind: str, **options: Any) -> Child:
        assert self.process.stdin is not None
        self.errors.unlink(missing_ok=True)
        about = {"out": str(out), "kind": kind, "errors": str(self.errors)}
        self.process.stdin.write(json.dumps(about | options).encode() + b"\n")
        self.process.stdin.flush()
        return Child(self, self.answer("child"))

    def starter(self, kind: str) -> Callable[[Path], Child]:
        return lambda out: self.start(out, kind)

    def has_answer(self) -> bool:
        return b"\n" in self._buffer or bool(select.select([self._read], [], [], 0)[0])

    def answer(self, kind: str) -> int:
        # Tagged: an exit code of 0 that is taken for a process would be a signal to
        # the whole group.
        while b"\n" not in self._buffer:
            content = os.read(self._read, 4096)
            assert content, "the server has ended"
            self._buffer += content
        line, self._buffer = self._buffer.split(b"\n", 1)
        word, number = line.split()
        assert word.decode() == kind
        return int(number)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


# in the child


def settings(kind: str) -> dict[str, Any]:
    """Changes of the tiny run for each kind."""
    from vitral.data import AugmentConfig, MixConfig
    from vitral.tasks.representation import MAEConfig, MaskedPatchConfig

    loop: dict[str, Any] = {"accumulate": 2, "log_every": 1, "checkpoint_every": 3}
    if kind in ("mae", "masked_patch"):
        small = MAEConfig(decoder_dim=24, decoder_depth=1, decoder_heads=2)
        return {
            "objective": small if kind == "mae" else MaskedPatchConfig(),
            "loop": {**loop, "eval_every": 5, "monitor": "loss"},
        }
    loop["eval_every"] = 5
    if kind.startswith("frozen"):
        augment = AugmentConfig(flip=0.5, views=2)
        return {"freeze": 1, "cache": True, "augment": augment, "loop": loop}
    return {
        "model_changes": {"depth": 2, "drop_path_rate": 0.2},
        "mix": MixConfig(mixup=0.4),
        "augment": AugmentConfig(shift=0.1, color_jitter=0.2),
        "loop": loop,
    }


def train(kind: str, out: Path, data: Path, steps: int) -> None:
    """One training of about four epochs into `out`."""
    import vitral.workflows.train.finalize
    from photos import tiny_config
    from vitral.workflows.runtime import Runtime

    train = importlib.import_module("vitral.workflows.train.train")

    if "report" not in kind:
        finalize = vitral.workflows.train.finalize
        finalize.write_report = lambda out, data: out
        finalize.compute_report_maps = lambda run, data, device: None
    workers = int(kind[-1]) if kind.startswith("workers") else 0
    broken(kind)
    fields = settings(kind)
    config = tiny_config(data, **{**fields, "loop": {**fields["loop"], "steps": steps}})
    runtime = Runtime(device="cpu", workers=workers)
    train.train(config, out, resume=True, runtime=runtime)


def broken(kind: str) -> None:
    """Plant a fault that only a resumed run shows."""
    from vitral.data import Loader
    from vitral.tasks.classification import Supervised

    forward, order = Supervised.forward, Loader.order
    state = {"calls": 0}

    def scaled(factor: Callable[[], float]) -> Any:
        def changed(self: Any, batch: Any) -> Any:
            result = forward(self, batch)
            return {**result, "loss": result["loss"] * factor()}

        return changed

    def calls() -> float:
        state["calls"] += 1
        return 1 + 0.01 * state["calls"]

    if kind == "hidden state":
        Supervised.forward = scaled(calls)
    elif kind == "global generator":
        random.seed(0)
        Supervised.forward = scaled(lambda: 1 + 0.01 * random.random())
    elif kind == "lost permutation":
        Loader.order = lambda self, epoch: order(self, int(calls() * 100) % 7)


def writes(mode: str | None, flags: int) -> bool:
    """Return whether a file is opened to write; `os.open` has flags alone."""
    if mode is None:
        return bool(flags & (os.O_WRONLY | os.O_RDWR))
    return bool(set("wax") & set(mode))


def kill_when(name: str) -> None:
    """SIGKILL before anything gets a name that ends like this regular expression."""
    ending = re.compile(f"{name}$")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        made = {"os.rename": 1, "os.mkdir": 0, "open": 0}.get(event)
        if made is None or (event == "open" and not writes(*arguments[1:])):
            return
        if ending.search(str(arguments[made])):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run_child(request: dict[str, Any], data: Path) -> int:
    import torch

    from vitral.errors import VitralError

    torch.set_num_threads(1)
    if "kill_when" in request:
        kill_when(request["kill_when"])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if "file_limit" in request:
        limit = request["file_limit"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    out = Path(request["out"])
    errors = Path(request["errors"])
    try:
        train(request["kind"], out, data, request.get("steps", STEPS))
    except VitralError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        errors.write_text(str(error))
        return error.exit_code
    except Exception:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        errors.write_text(traceback.format_exc())
        raise
    return 0


def serve(data: Path) -> None:
    import multiprocessing

    import vitral.data.loading.workers

    for name in ("vitral.workflows.train.train", "torch._dynamo", "photos"):
        importlib.import_module(name)
    # The server of the real context would import torch anew for every training.
    vitral.data.loading.workers._context = lambda: multiprocessing.get_context("fork")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = run_child(json.loads(line), data)
            except SystemExit as stopped:
                code = stopped.code if isinstance(stopped.code, int) else 1
            finally:
                os._exit(code)
        print("child", child, flush=True)
        _, status = os.waitpid(child, 0)
        print("exit", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
