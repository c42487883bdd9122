"""Real processes, really killed: the same command goes on to the same bits.

Run as a script it is the training command of these tests,
`python test_training_kill.py FOLDER SECONDS_A_STEP`; without arguments it imports torch
once and forks that command for each line of its input, to spare the import.
"""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rank_server import wait_until

KILLS = 12
HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"


def train(folder: Path, pause: float) -> int:
    """What a user's script does, slowly enough to be hit at any moment."""
    import torch

    from tiny_fit import batches_of, config_of, images, run
    from vitral.errors import VitralError

    torch.set_num_threads(1)
    fast = batches_of(images())

    def batches(epoch, start):
        (folder / f"running-{os.getpid()}").touch()
        for batch in fast(epoch, start):
            time.sleep(pause)
            yield batch

    config = config_of(steps=60, checkpoint_every=2, keep=2)
    try:
        run(folder, batches=batches, config=config, resume=True)
    except VitralError as error:
        (folder / "error.txt").write_text(str(error))
        return error.exit_code
    return 0


def serve() -> None:
    """Answer each line FOLDER SECONDS with the child's number, then its exit code."""

    importlib.import_module("tiny_fit")
    importlib.import_module("torch._dynamo")  # by the first optimizer that is made

    for line in sys.stdin:
        folder, pause = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = train(Path(folder), float(pause))
            except SystemExit as stopped:
                code = stopped.code
            finally:
                os._exit(code)
        print("child", child, flush=True)
        _, status = os.waitpid(child, 0)
        print("exit", os.waitstatus_to_exitcode(status), flush=True)


def popen(*arguments: object, errors: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env={"PYTHONPATH": f"{SOURCE}:{HERE}", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


class Server:
    """Forks the training command on demand."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.write, self.read = process.stdin, process.stdout

    def start(self, folder: Path, pause: float) -> int:
        """The number of the new process."""
        self.write.write(f"{folder} {pause}\n")
        self.write.flush()
        return self._answer("child")

    def exit_code(self) -> int:
        """Wait for its end; minus the signal that killed it."""
        return self._answer("exit")

    def _answer(self, kind: str) -> int:
        # Tagged: an exit code of 0 that is taken for a process would be a signal to
        # the whole group.
        word, number = self.read.readline().split()
        assert word == kind
        return int(number)


@pytest.fixture
def server():
    with popen(errors=subprocess.DEVNULL) as process:
        yield Server(process)
        process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with popen(folder, 0.0, errors=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return folder


def last_step(folder: Path) -> int:
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    return max((int(name[5:]) for name in names), default=0)


def assert_same(whole: Path, broken: Path) -> None:
    from tiny_fit import assert_same_run

    assert_same_run(whole, broken)


def test_killed_many_times(server, whole, tmp_path):
    """SIGKILL while starting, while loading, in steps and in saves."""
    generator = random.Random(9)
    broken = tmp_path / "run"
    reached = []
    for life in range(KILLS):
        before = last_step(broken)
        child = server.start(broken, 0.04)  # slow: no life may end by itself
        if life % 3:
            wait_until(lambda: last_step(broken) > before)  # noqa: B023
            time.sleep(generator.uniform(0, 0.15))
        else:
            time.sleep(generator.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        assert server.exit_code() == -signal.SIGKILL
        reached.append(last_step(broken))
    assert len(set(reached)) > KILLS / 2  # the kills were spread over the run
    assert reached[-1] < 60
    with popen(
        broken, 0.0, errors=subprocess.PIPE
    ) as process:  # and once the command itself
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert_same(whole, broken)
    assert not list((broken / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_save_and_exit(server, whole, tmp_path, number, code):
    broken = tmp_path / "run"
    child = server.start(broken, 0.01)
    wait_until(lambda: last_step(broken) >= 4)
    sent = time.monotonic()
    os.kill(child, number)
    assert server.exit_code() == code
    assert time.monotonic() - sent < 10
    message = (broken / "error.txt").read_text()
    step = last_step(broken)
    assert 4 <= step < 60
    assert message.startswith(f"Stopped by {number.name}: step {step} of 60 is saved")
    assert message.endswith("Run the same command with --resume to go on.")
    server.start(broken, 0.0)
    assert server.exit_code() == 0
    assert_same(whole, broken)


@pytest.mark.parametrize(
    ("number", "codes"),
    [(signal.SIGTERM, (143,)), (signal.SIGINT, (1, 130))],
)
def test_a_second_signal_stops_a_hanging_run(server, tmp_path, number, codes):
    """A step that never ends (here: a batch that never comes) can be left."""
    broken = tmp_path / "run"
    child = server.start(broken, 1000.0)
    wait_until((broken / f"running-{child}").exists)
    os.kill(child, number)
    time.sleep(0.2)
    os.kill(child, 0)  # it is alive, and waits
    os.kill(child, number)
    assert server.exit_code() in codes
    assert not (broken / "error.txt").exists()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        sys.exit(train(Path(sys.argv[1]), float(sys.argv[2])))
