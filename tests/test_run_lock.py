"""One run a folder: the second is refused, and a dead owner's lock is nobody's."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from rank_server import wait_until
from vitral import config_io
from vitral.errors import ConfigError
from vitral.workflows import TrainConfig
from vitral.workflows.run_lock import (
    is_torchrun_restart,
    lock_file,
    lock_run_folder,
    require_unlocked,
)

HERE = Path(__file__)
SETTINGS = config_io.to_dict(TrainConfig(data="digits", model="vit_mu8"))

# Each waits for the word "go", tries, says what came of it, and stays until killed.
CHILD = """
import json, sys, fcntl, os, time
sys.path[:0] = {paths}
from pathlib import Path
from vitral.errors import ConfigError
from vitral.workflows.run_lock import lock_file
number, folder = int(sys.argv[1]), Path(sys.argv[2])
for _ in range(number - 1):
    if os.fork() == 0:
        break
(folder / f"ready-{os.getpid()}").touch()
while not (folder / "go").exists():
    pass
try:
    with lock_file(folder / "lock.json"):
        (folder / f"won-{os.getpid()}").touch()
        time.sleep(100)
except ConfigError as error:
    (folder / f"lost-{os.getpid()}").write_text(str(error))
"""


def starters(folder: Path, number: int) -> "subprocess.Popen[bytes]":
    """A process group of so many that start at once."""
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent)]
    code = CHILD.replace("{paths}", json.dumps(paths))
    words = [sys.executable, "-c", code, str(number), str(folder)]
    return subprocess.Popen(words, start_new_session=True)


def count(folder: Path, kind: str) -> int:
    return len(list(folder.glob(f"{kind}-*")))


def test_of_many_that_start_at_once_one_wins(tmp_path):
    number = 5
    process = starters(tmp_path, number)
    try:
        wait_until(lambda: count(tmp_path, "ready") == number)
        (tmp_path / "go").touch()
        wait_until(lambda: count(tmp_path, "won") + count(tmp_path, "lost") == number)
        assert count(tmp_path, "won") == 1
        (winner,) = tmp_path.glob("won-*")
        owner = f"process {winner.name[4:]} on {socket.gethostname()}"
        for loser in tmp_path.glob("lost-*"):
            assert f"{tmp_path} is in use by {owner}: wait" in loser.read_text()
        with pytest.raises(ConfigError, match="is in use by process"):
            require_unlocked(tmp_path / "lock.json")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # Its owner was killed: the file is there, and no lock.
    wait_until(lambda: free(tmp_path / "lock.json"))
    with lock_file(tmp_path / "lock.json"):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


def free(file: Path) -> bool:
    try:
        require_unlocked(file)
    except ConfigError:
        return False
    return True


def test_a_run_holds_its_folder_and_lets_it_go(tmp_path):
    out = tmp_path / "run"
    with lock_run_folder(SETTINGS, out, False) as resume:
        assert resume is False
        with lock_run_folder(
            SETTINGS, out, False
        ):  # the command, and `train` inside it
            pass
        refused: list[str] = []

        def other(again: bool) -> None:
            try:
                with lock_run_folder(SETTINGS, out, again):
                    refused.append("")
            except ConfigError as error:
                refused.append(str(error))

        for again in (False, True):
            thread = threading.Thread(target=other, args=(again,))
            thread.start()
            thread.join()
        assert len(refused) == 2
        assert all(f"is in use by process {os.getpid()} on " in x for x in refused)
    assert list(out.iterdir()) == []
    with lock_run_folder(SETTINGS, out, False):
        pass


def test_somebody_elses_folder_gets_no_lock(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with (
        pytest.raises(ConfigError, match="holds something that is not a run"),
        lock_run_folder(SETTINGS, tmp_path, False),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_torchrun_starts_again_resumes(tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night")
    with ExitStack() as stack:
        assert not stack.enter_context(lock_run_folder(SETTINGS, out, False))
        stack.pop_all().__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    # Nodes changed: torchrun does not count that, but its id is in the file.
    with lock_run_folder(SETTINGS, out, False) as resume:
        assert resume
    assert not (out / "lock.json").exists()
    assert not is_torchrun_restart(out / "lock.json")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert is_torchrun_restart(out / "lock.json")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's word for no id
    with lock_run_folder(SETTINGS, out, False) as resume:
        assert not resume


def test_what_a_dead_owner_was_starting_holds_the_lock_for_a_moment(tmp_path):
    """A copy of the owner between fork and exec; the next run waits for its end."""
    lock = tmp_path / "lock.json"
    ours, theirs = os.pipe()
    owner = os.fork()
    if owner == 0:
        with lock_file(lock):
            if os.fork() == 0:
                time.sleep(1.0)
                os._exit(0)
            os.write(theirs, b"x")
            time.sleep(100)
    os.read(ours, 1)
    with pytest.raises(ConfigError, match=f"is in use by process {owner}"):
        require_unlocked(lock)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    with lock_file(lock):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
