"""The command itself, killed: it goes on to the same bits, or says why it cannot.

Kills follow what is on the disk, not the clock: importing torch takes seconds on a busy
machine, and a kill during an import tests nothing.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from photos import make_photos
from run_folders import count_records, untimed

SOURCE = Path(__file__).parents[1] / "src"
KILLS = 10
STEPS = 60
SETTINGS = ["--model", "vit_mu16", "--image-size", "32", "48", "--set", "depth=2"]
SETTINGS += ["embed_dim=32", "mlp_dim=64", "num_heads=2"]
SETTINGS += ["drop_path_rate=0.2", "--batch-size", "12", "--accumulate", "2"]
SETTINGS += ["--ema", "0.9", "--mixup", "0.4", "--shift", "0.1", "--lr", "0.003"]
SETTINGS += ["--warmup", "5", "--steps", str(STEPS), "--eval-every", "12"]
SETTINGS += ["--checkpoint-every", "5", "--log-every", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", per_class=6)


def command(photos: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "vitral", "train", str(photos), "--out", str(out)]
    return [*words, *SETTINGS, *more]


def start(photos: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(photos, out, *more),
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory) -> Path:
    """The run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with start(photos, out) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def wait_for_growth(process: subprocess.Popen[str], out: Path, growth: int) -> None:
    """Until `growth` lines were written by this process, or it ended.

    A resumed process first cuts the log back to its checkpoint.
    """
    deadline = time.monotonic() + 120
    before, seen = count_records(out), 0
    while seen < growth and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happened for two minutes"
        now = count_records(out)
        seen, before = seen + max(0, now - before), now
        time.sleep(0.002)


def assert_same_run(one: Path, other: Path) -> None:
    assert untimed(one) == untimed(other)
    files = sorted(
        path.relative_to(one).as_posix() for path in one.rglob("*.safetensors")
    )
    assert "model/model.safetensors" in files
    assert f"checkpoints/step-{STEPS:08d}/ema.safetensors" in files
    found = {
        path.relative_to(other).as_posix() for path in other.rglob("*.safetensors")
    }
    assert set(files) == found
    for name in files:
        tensors, others = load_file(one / name), load_file(other / name)
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert tensor.equal(others[key]), f"{name}: {key}"
    for name in ("predictions/test.json", "predictions/test.csv", "split.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_killed_ten_times_ends_bit_equal(photos, whole, tmp_path):
    generator = random.Random(5)
    out = tmp_path / "run"
    reached = []
    for life in range(KILLS):
        with start(photos, out, "--resume") as process:
            if life % 3 == 2:  # while it starts
                time.sleep(generator.uniform(0, 2))
            else:  # in steps and saves, before or after the next checkpoint
                wait_for_growth(process, out, generator.randint(1, 8))
                time.sleep(generator.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        reached.append(count_records(out))
    assert len(set(reached)) >= 3
    with start(photos, out, "--resume") as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_same_run(whole, out)
    assert not list(out.rglob(".*"))


def test_signals_save_and_say_so(photos, tmp_path):
    """SIGTERM, and Ctrl-C in the run that goes on from there."""
    out = tmp_path / "run"
    steps = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with start(photos, out, "--resume") as process:
            wait_for_growth(process, out, 7)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        last = errors.splitlines()[-1]
        assert last.startswith(f"vitral train: Stopped by {number.name}: step ")
        assert last.endswith("Run the same command with --resume to go on.")
        assert "Traceback" not in errors
        saved = sorted(path.name for path in (out / "checkpoints").iterdir())[-1]
        steps.append(int(saved[5:]))
        assert f"step {steps[-1]} of {STEPS} is saved in " in last
    assert 7 <= steps[0] < steps[1] - 6 < STEPS


def test_a_full_disk_corrupts_nothing(photos, whole, small_disk):
    """The disk fills up between the first checkpoint and the second."""
    out = small_disk / "run"
    ballast = small_disk / "ballast"
    with start(photos, out) as process:
        wait_for_growth(process, out, 6)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 4, errors
    last = errors.splitlines()[-1]
    assert "could not be written" in last
    assert "Free space" in last
    assert "Traceback" not in errors
    checkpoints = sorted((out / "checkpoints").iterdir())
    assert checkpoints
    for checkpoint in checkpoints:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for name, recorded in manifest["files"].items():
            assert (checkpoint / name).stat().st_size == recorded["bytes"]
    assert not list(out.rglob(".*"))
    ballast.unlink()
    kept = shutil.move(out, small_disk.parent / "moved")
    with start(photos, Path(kept), "--resume") as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_same_run(whole, Path(kept))
