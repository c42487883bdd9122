"""Real processes, really killed: the same command goes on to the same bits.

Run as a script it is the training command of these tests,
`python test_training_kill.py FOLDER SECONDS_A_STEP`; without arguments it imports torch
once and forks that command for each line of its input, to spare the import.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KILLS = 12
HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"


def train(folder: Path, pause: float) -> int:
    """What a user's script does, slowly enough to be hit at any moment."""
    import torch

    from test_training import batches_of, config_of, images, run
    from vitral.errors import VitralError

    torch.set_num_threads(1)
    fast = batches_of(images())

    def batches(epoch, start):
        print("running", flush=True)
        for batch in fast(epoch, start):
            time.sleep(pause)
            yield batch

    config = config_of(steps=60, checkpoint_every=2, keep=2)
    try:
        run(folder, batches=batches, config=config, resume=True)
    except VitralError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def serve() -> None:
    """Answer each line FOLDER SECONDS with the child's number, then its exit code."""

    import test_training  # noqa: F401

    for line in sys.stdin:
        folder, pause = line.split()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writing, 1)  # the answers on the old one are the parent's
            os._exit(train(Path(folder), float(pause)))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        print(os.waitstatus_to_exitcode(status), flush=True)


@contextmanager
def command(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env={"PYTHONPATH": f"{SOURCE}:{HERE}", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_a_step(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"


def errors_of(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=120)
    return errors


def complete(folder: Path) -> None:
    """Run the command to its end."""
    with command(folder, 0.0) as process:
        errors = errors_of(process)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    complete(folder)
    return folder


def assert_same(whole: Path, broken: Path) -> None:
    from test_training import assert_same_run

    assert_same_run(whole, broken)


def steps(folder: Path) -> list[int]:
    return sorted(
        int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")
    )


def test_killed_many_times(whole, tmp_path):
    """SIGKILL at random moments, during loading and saving too."""
    generator = random.Random(9)
    kills, trial, reached = 0, 0, set()
    with command() as server:
        assert server.stdin is not None
        assert server.stdout is not None
        while kills < KILLS:
            trial += 1
            code = None
            while kills < KILLS and code != 0:
                server.stdin.write(f"{tmp_path / str(trial)} 0.02\n")
                server.stdin.flush()
                child = int(server.stdout.readline())
                time.sleep(generator.uniform(0, 0.5))
                os.kill(child, signal.SIGKILL)
                code = int(server.stdout.readline())
                assert code in (0, -signal.SIGKILL)
                kills += code != 0
                reached.update(steps(tmp_path / str(trial))[-1:])
    for number in range(1, trial + 1):
        broken = tmp_path / str(number)
        complete(broken)
        assert_same(whole, broken)
        assert not list((broken / "checkpoints").glob(".*"))
    assert len(reached) >= 3  # the kills were spread over the run


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_save_and_exit(whole, tmp_path, number, code):
    broken = tmp_path / "run"
    with command(broken, 0.1) as process:
        wait_for_a_step(process)
        time.sleep(0.5)
        sent = time.monotonic()
        process.send_signal(number)
        errors = errors_of(process)
    assert time.monotonic() - sent < 10
    assert process.returncode == code, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"Stopped by {number.name}: step {steps(broken)[-1]} of 60")
    assert last.endswith("Run the same command with --resume to go on.")
    complete(broken)
    assert_same(whole, broken)


def test_a_second_signal_stops_a_hanging_run(tmp_path):
    """A step that never ends (here: a batch that never comes) can be left."""
    with command(tmp_path / "run", 1000.0) as process:
        wait_for_a_step(process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        errors = errors_of(process)
    assert process.returncode == 143, errors


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        sys.exit(train(Path(sys.argv[1]), float(sys.argv[2])))
