"""Nothing that lies in the working folder is imported by a process of vitral."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vitral as vt
from photos import CLASSES, make_photos
from vitral.child_process import get_process_context, start_python
from vitral.data import Preprocess
from vitral.models import build_model, get_config

SOURCE = Path(__file__).parents[1] / "src" / "vitral"
MODULES = ("json", "runpy", "random", "torch", "numpy", "selectors", "tempfile")
"""Names that Python, multiprocessing, torch and vitral import early and late."""


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules that write a file when they are imported."""
    folder = tmp_path / "download"
    folder.mkdir()
    sentinel = tmp_path / "executed"
    for name in MODULES:
        code = f"open({str(sentinel)!r}, 'a').write({name!r})\nraise SystemExit(9)\n"
        (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    return sentinel


def run_console(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its console script does, whose folder holds no modules."""
    code = "import sys; from vitral.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_training_with_a_worker_and_prediction(trap: Path, tmp_path: Path):
    photos = make_photos(tmp_path / "photos")
    out = tmp_path / "run"
    small = ["--model", "vit_mu8", "--image-size", "24", "--batch-size", "8"]
    done = run_console(
        *("train", str(photos), "--out", str(out), *small),
        *("--steps", "2", "--warmup", "1", "-j", "1", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    done = run_console(
        *("predict", str(out), str(photos), "--workers", "1", "--batch-size", "4"),
        *("--out", str(tmp_path / "answers.csv"), "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "answers.csv").read_text().splitlines()) > 10
    assert not trap.exists()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_contexts_of_multiprocessing(method: str, trap: Path):
    """In a process of its own: this one's fork server and tracker may run already."""
    code = (
        "from vitral.child_process import get_process_context\n"
        f"context = get_process_context({method!r})\n"
        "process = context.Process(target=print, args=('in a child',))\n"
        "queue = context.SimpleQueue()\n"
        "process.start(); process.join(); print(process.exitcode)\n"
    )
    file = trap.parent / "program.py"
    guarded = "".join(f"    {line}\n" for line in code.splitlines())
    file.write_text(f"if __name__ == '__main__':\n{guarded}")
    done = subprocess.run(
        [sys.executable, "-P", str(file)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["in a child", "0"], done.stderr
    assert not trap.exists()
    assert "PYTHONSAFEPATH" not in os.environ
    assert get_process_context("spawn").get_start_method() == "spawn"


@pytest.mark.parametrize("words", [("-c", "import json"), ("-m", "vitral", "--help")])
def test_a_python_that_is_started(words: tuple[str, ...], trap: Path):
    assert start_python(words, stdout=subprocess.DEVNULL).wait(60) == 0
    assert not trap.exists()


def test_python_m_vitral_drops_the_working_folder(tmp_path: Path, monkeypatch):
    """Python itself reads runpy there before; the rest of the modules are safe."""
    sentinel = tmp_path / "executed"
    for name in ("json", "argparse", "torch", "logging"):
        (tmp_path / f"{name}.py").write_text(f"open({str(sentinel)!r}, 'a')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    command = [sys.executable, "-m", "vitral", "models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "vit_b16" in done.stdout
    assert not sentinel.exists()


def test_nobody_else_starts_a_process():
    """All go through `start_python` and `get_process_context`."""
    other = re.compile(
        r"subprocess\.(Popen|run|call|check_\w+)\(|get_context\(|posix_spawn|"
        r"os\.(system|popen|exec\w+|spawn\w+)\(|multiprocessing\.(Process|Pool)\("
    )
    found = [
        f"{file.relative_to(SOURCE)}: {line.strip()}"
        for file in sorted(SOURCE.rglob("*.py"))
        if file.name != "child_process.py"
        for line in file.read_text(encoding="utf-8").splitlines()
        if other.search(line.replace("get_process_context(", ""))
    ]
    assert found == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_ctrl_c_while_workers_start(delay: float, tmp_path: Path):
    """As a terminal sends it, to the whole group: 130, a sentence, no traceback."""
    photos = make_photos(tmp_path / "photos")
    out = tmp_path / "run"
    words = ["train", str(photos), "--out", str(out), "--model", "vit_mu8"]
    words += ["--image-size", "24", "--steps", "2000", "--batch-size", "8"]
    code, text, group = _interrupt(*words, "--device", "cpu", "-j", "2", delay=delay)
    assert code == 130, text
    assert "Traceback" not in text
    assert "--resume" in text
    # The tracker of multiprocessing ends when it sees that all others have.
    deadline = time.monotonic() + 20
    while _group(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _group(group) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_while_workers_of_a_prediction_start(tmp_path: Path):
    """They are told apart from a training's: nothing finishes a step for them."""
    photos = make_photos(tmp_path / "photos")
    model = tmp_path / "model"
    config = get_config("vit_mu8", {"image_size": (32, 48), "num_classes": 3})
    preprocess = Preprocess(image_size=(32, 48))
    vt.save(model, build_model(config), preprocess, classes=CLASSES)
    words = ["predict", str(model), str(photos), "--out", str(tmp_path / "out")]
    code, text, _ = _interrupt(*words, "-j", "2", delay=0.0)
    assert code == 130, text
    assert text.strip() == "vitral predict: stopped by the keyboard."


def _interrupt(*words: str, delay: float) -> tuple[int, str, int]:
    """Interrupt a command after its fork server began; code, stderr and group."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vitral", *words],
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not _children(process.pid, b"forkserver") and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=120)
    return process.returncode, text, process.pid


def _children(group: int, word: bytes) -> list[int]:
    return [pid for pid in _group(group) if word in _read(f"/proc/{pid}/cmdline")]


def _group(group: int) -> list[int]:
    """Return the processes of a group that are alive."""
    alive = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
        if len(fields) > 2 and int(fields[2]) == group and fields[0] != b"Z":
            alive.append(int(name))
    return alive


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
