"""Processes that are ranks, without the seconds that each import of torch takes.

Run as a script it imports torch once; each line of its input, JSON, forks so many
processes, gives them what torchrun gives to its workers, and lets them do one piece of
work of rank_work.py. Its answer is the list of their exit codes.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def serve() -> None:
    work = importlib.import_module("rank_work")
    for name in ("torch._dynamo", "torch.distributed.fsdp"):
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        children = [start(work, order, rank) for rank in range(order["world"])]
        print(json.dumps(children), flush=True)
        print(json.dumps([wait(child) for child in children]), flush=True)


def start(work: Any, order: dict[str, Any], rank: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if order["world"] > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(order["world"]),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(order["port"]),
            }
        sys.stderr = open(order["stderr"], "a")  # noqa: SIM115
        os.dup2(sys.stderr.fileno(), 2)
        with contextlib.redirect_stdout(sys.stderr):
            code = getattr(work, order["work"])(*order["arguments"]) or 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def wait(child: int) -> int:
    """Its exit code; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Server:
    """A running server, and what the last ranks printed."""

    def __init__(self, folder: Path) -> None:
        self.stderr = folder / "stderr.txt"
        paths = os.pathsep.join((str(HERE.parent / "src"), str(HERE)))
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, work: str, *arguments: Any, world: int = 2) -> None:
        """Let `world` ranks do it; `codes` waits for them."""
        self.stderr.write_text("")
        order = {"world": world, "port": free_port(), "work": work}
        order |= {"arguments": arguments, "stderr": str(self.stderr)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout is not None
        self.ranks: list[int] = json.loads(self.process.stdout.readline())

    def kill_rank(self, rank: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.ranks[rank], signal.SIGKILL)

    def codes(self) -> list[int]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def run(self, work: str, *arguments: Any, world: int = 2) -> None:
        """Let them do it to a good end."""
        self.start(work, *arguments, world=world)
        assert self.codes() == [0] * world, self.stderr.read_text()

    def errors(self) -> str:
        return self.stderr.read_text()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


if __name__ == "__main__":
    serve()
