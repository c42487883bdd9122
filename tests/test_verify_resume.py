"""Killed runs of every kind against unbroken ones, and the command that does it."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vitral.cli.verify_resume as verb
from forking import KINDS, STEPS, Server
from photos import make_photos
from vitral.cli import main
from vitral.errors import ConfigError, GateError, VitralError, WeightsError
from vitral.run.killing import ROUND, aims, last_step
from vitral.run.sameness import compare_folders
from vitral.run.verifying import killed, unbroken
from vitral.training import CheckpointStore

KILLS = 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", per_class=9)


@pytest.fixture(scope="module")
def server(photos):
    result = Server(photos)
    yield result
    result.close()


@pytest.fixture(scope="module")
def wholes(server, tmp_path_factory):
    """An unbroken run of each kind, when it is asked for, and its pace."""
    root = tmp_path_factory.mktemp("whole")
    paces = {}

    def whole(kind):
        out = root / kind
        if kind not in paces:
            paces[kind] = unbroken(server.starter(kind), out, STEPS)
        return out, paces[kind]

    return whole


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_five_kills_in_one_run_change_no_bit(server, wholes, tmp_path, seed, kind):
    """In all 30 kills; mixup, EMA, accumulation and drop-path are in the first three.

    An epoch has two batches, so both its middle and its end are hit.
    """
    whole, pace = wholes(kind)
    result = killed(
        server.starter(kind),
        tmp_path / "killed",
        whole,
        pace,
        steps=STEPS,
        kills=KILLS,
        seed=seed,
    )
    assert result.same.differences == ()
    assert result.missed == 0, result.lines()
    assert len(result.kills) == KILLS
    assert result.same.lines >= STEPS
    assert result.same.tensors > 50
    assert not list((tmp_path / "killed").rglob(".*"))
    result.require_equal(tmp_path)


FAULTS = {
    "hidden state": "metrics.jsonl differs first in line",
    "global generator": "metrics.jsonl differs first in line",
    "lost permutation": "The order of the examples differs",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_that_only_a_resumed_run_shows_is_caught(server, tmp_path, kind):
    """The controls: state of the process, a generator that no step seeds, an order
    that depends on how often it was asked for."""
    assert server.start(tmp_path / "whole", kind).wait() == 0
    child = server.start(tmp_path / "killed", kind, kill_when="/step-00000009")
    assert child.wait() == -signal.SIGKILL
    assert server.start(tmp_path / "killed", kind).wait() == 0
    found = compare_folders(tmp_path / "whole", tmp_path / "killed").differences
    assert any(FAULTS[kind] in text for text in found), found
    assert any("/model.safetensors: " in text for text in found)
    assert any("model/model.safetensors: " in text for text in found)


NAMES = (
    "split.csv",
    "config.json",
    "data.json",
    "environment.json",
    "command.txt",
    "tokens.bin",
    "tokens.json",
    "checkpoints",
    "metrics.jsonl",
    r"/\.new-step-00000003-\d+",
    "state.json",
    "manifest.json",
    "/step-00000003",
    "/model",
    "model/config.json",
    r"/\.old-step-00000003-\d+",
    "predictions",
    "val.json",
    "val.csv",
    "test.csv",
    "test.json",
    "README.md",
    "inspection",
    "report.npz",
    "report.json",
    "report.html",
)


def test_a_kill_before_every_file_of_a_run(server, tmp_path):
    """One run, killed once before each name that a run gives: at its start, while
    frozen outputs are computed, in saves, in the evaluation and the report after the
    last step. The same command goes on each time."""
    kind = "frozen, report"
    whole = tmp_path / "whole"
    assert server.start(whole, kind).wait() == 0
    out = tmp_path / "killed"
    for name in NAMES:
        code = server.start(out, kind, kill_when=name).wait()
        assert code == -signal.SIGKILL, f"{name} was not made"
    assert server.start(out, kind).wait() == 0
    assert compare_folders(whole, out).differences == ()
    made = {path.name for path in out.rglob("*") if path.is_file()}
    assert made == {path.name for path in whole.rglob("*") if path.is_file()}
    # The list of places is complete; the optimizer's and the average's files are
    # written as the model's.
    assert made - {"ema.safetensors", "optimizer.safetensors"} <= {
        *(name.rpartition("/")[2] for name in NAMES),
        "model.safetensors",
    }


def test_sigterm_saves_twenty_times_and_exits_143(server, tmp_path):
    """One run of many steps, stopped and resumed twenty times."""
    steps, generator = 90, random.Random(8)
    out = tmp_path / "stopped"
    for _ in range(20):
        before = last_step(out)
        child = server.start(out, "all at once", steps=steps)
        # A resumed run may first cut its log back: its saves are what is left.
        wanted = before + generator.randint(1, 2)
        while last_step(out) < wanted:
            assert child.poll() is None, "it ended before it was stopped"
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.02))
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 143
        said = server.said()
        saved = CheckpointStore(out / "checkpoints").latest()
        assert saved.skipped == ()
        assert f"Stopped by SIGTERM: step {saved.step} of {steps} is saved" in said
        assert saved.step == last_step(out) >= wanted
    assert server.start(out, "all at once", steps=steps).wait() == 0
    assert server.start(tmp_path / "whole", "all at once", steps=steps).wait() == 0
    assert compare_folders(tmp_path / "whole", out).differences == ()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount command here")
    options = ["-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(
        [mount, *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check_after_a_full_disk(code: int, out: Path, said: str) -> bool:
    """Whether the run was stopped; what there is then is whole, or not there."""
    store = CheckpointStore(out / "checkpoints")
    if code == 0:
        return False
    assert code == 4, said
    assert "could not be written" in said or "are free" in said
    assert "Free space" in said
    latest = store.latest()
    assert latest.skipped == ()
    if latest.step is not None:
        store.load(latest.step)
    return True


def test_a_disk_that_is_full_at_twenty_levels(server, wholes, small_disk, tmp_path):
    """From no room at all to enough of it: a checkpoint stays loadable, and with room
    the same command ends with the same bits."""
    whole, _ = wholes("mae")
    used = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    stopped = []
    for level in range(20):
        ballast, out = small_disk / "ballast", small_disk / f"{level}"
        shutil.rmtree(small_disk / f"{level - 1}", ignore_errors=True)
        status = shutil.disk_usage(small_disk)
        room = round(1.25 * used * level / 19)
        ballast.write_bytes(bytes(status.free - room))
        code = server.start(out, "mae").wait()
        ballast.unlink()
        stopped.append(check_after_a_full_disk(code, out, server.said()))
        assert server.start(out, "mae").wait() == 0
        assert compare_folders(whole, out).differences == (), level
        assert not list(out.rglob(".*"))
    assert stopped[0]
    assert not stopped[-1]
    assert sum(stopped) >= 12


def test_files_that_may_not_grow(server, wholes, tmp_path):
    """The same where nothing can be mounted: a limit on the size of a file."""
    whole, _ = wholes("frozen")
    for limit in (0, 3_000, 40_000):
        out = tmp_path / f"{limit}"
        code = server.start(out, "frozen", file_limit=limit).wait()
        assert check_after_a_full_disk(code, out, server.said())
        assert server.start(out, "frozen").wait() == 0
        assert compare_folders(whole, out).differences == ()
