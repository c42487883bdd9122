"""The checkpoint store: damage, full disks, kills at every point, retention."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitral.errors import ConfigError, DivergedError, WeightsError
from vitral.training import CheckpointStore
from vitral.training.checkpointing import checkpoint


def groups(step: float, size: int = 5):
    return {
        "model": {"head.weight": torch.full((size, 3), float(step))},
        "optimizer": {"head.weight/step": torch.tensor(float(step))},
    }


@pytest.fixture
def store(tmp_path):
    result = CheckpointStore(tmp_path / "checkpoints")
    result.prepare()
    return result


def save(store, *steps):
    for step in steps:
        store.save(step, groups(step), {"step": step})


def damage(path: Path, how: str) -> None:
    if how == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "zero":
        path.write_bytes(bytes(path.stat().st_size))
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


def test_round_trip(store):
    state = {"loss": 0.1 + 0.2, "names": ["ä", "b"]}
    shared = torch.arange(12.0).view(3, 4)
    tensors = {"model": {"a": shared, "tied": shared, "view": shared.t()[1:]}}
    folder = store.save(1200, tensors, state)
    assert folder.name == "step-00001200"
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "state.json",
        "manifest.json",
    }
    loaded = store.load(1200)
    assert loaded.state == state
    for name, tensor in tensors["model"].items():
        assert torch.equal(loaded.tensors["model"][name], tensor)
    assert store.latest() == (1200, ())
    assert [path.name for path in store.folder.iterdir()] == ["step-00001200"]


def test_manifest_has_sizes_and_hashes(store):
    save(store, 3)
    folder = store.path(3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == 3
    names = {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert set(manifest["files"]) == names
    for name in names:
        hashed = subprocess.run(
            ["sha256sum", folder / name], capture_output=True, text=True, check=True
        )
        assert manifest["files"][name] == {
            "bytes": (folder / name).stat().st_size,
            "sha256": hashed.stdout.split()[0],
        }


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in (
            "model.safetensors",
            "optimizer.safetensors",
            "state.json",
            "manifest.json",
        )
        for how in ("truncate", "flip", "zero", "empty", "delete")
        # The manifest's last byte is a line end: a flip loses nothing.
        if (name, how) != ("manifest.json", "flip")
    ],
)
def test_damage_falls_back_to_the_previous_one(store, name, how):
    save(store, 10, 20)
    damage(store.path(20) / name, how)
    latest = store.latest()
    assert latest.step == 10
    assert "step-00000020 is skipped: " in latest.skipped[0]
    with pytest.raises(WeightsError, match="step-00000020 cannot be used"):
        store.load(20)


def test_a_copied_folder_under_another_step_is_refused(store):
    save(store, 10)
    store.path(10).rename(store.path(11))
    assert store.latest().step is None


def test_missing_step(store):
    with pytest.raises(WeightsError, match=r"manifest\.json is missing"):
        store.load(5)


def test_reading_an_absent_folder(tmp_path):
    store = CheckpointStore(tmp_path / "nowhere")
    assert store.steps() == ()
    assert store.latest() == (None, ())
    assert not (tmp_path / "nowhere").exists()


def test_leftovers_are_ignored_and_removed(store):
    save(store, 10)
    half = store.folder / ".new-step-00000020-4711"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    store.path(10).rename(store.folder / ".old-step-00000010-4711")
    save(store, 5)
    (store.folder / "my notes.txt").write_text("kept")
    assert store.steps() == (5,)
    store.prepare()
    names = {path.name for path in store.folder.iterdir()}
    assert names == {"step-00000005", "my notes.txt"}


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another output folder"):
        CheckpointStore(tmp_path / "file" / "checkpoints").prepare()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_that_is_not_finite_reaches_the_disk(store, value):
    save(store, 10)
    tensors = groups(20)
    tensors["optimizer"]["head.weight/exp_avg"] = torch.tensor([0.0, value])
    with pytest.raises(DivergedError, match=r"head.weight/exp_avg of optimizer .* 20"):
        store.save(20, tensors, {})
    assert store.steps() == (10,)


def test_a_step_is_written_once(store):
    save(store, 10)
    with pytest.raises(WeightsError, match="steps are written once"):
        save(store, 10)


def test_a_damaged_step_is_replaced(store):
    save(store, 10, 20)
    damage(store.path(20) / "model.safetensors", "truncate")
    save(store, 20)
    assert store.latest() == (20, ())


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the store may catch it."""


def test_a_kill_at_any_point_leaves_a_sound_store(tmp_path, monkeypatch):
    """Cut the save off before its first, second, ... call into the system."""
    counter = {"left": 10**6}

    def guarded(function):
        def call(*arguments, **options):
            counter["left"] -= 1
            if counter["left"] < 0:
                raise Killed
            return function(*arguments, **options)

        return call

    for owner, name in [
        (checkpoint, "save_file"),
        (checkpoint, "sync_folder"),
        (checkpoint, "sha256_file"),
        (checkpoint, "write_json"),
        (checkpoint.os, "fsync"),
        (checkpoint.shutil, "rmtree"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "mkdir"),
    ]:
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))
    points = 0
    while True:
        store = CheckpointStore(tmp_path / f"{points}")
        counter["left"] = 10**6
        store.prepare()
        save(store, 1, 2, 3)
        counter["left"] = points
        try:
            save(store, 4)
            store.prune(1, best=1)
            break
        except Killed:
            counter["left"] = 10**6
        latest = store.latest()
        assert latest.step in (3, 4)
        assert latest.skipped == ()
        assert float(store.load(latest.step).tensors["model"]["head.weight"][0, 0]) == (
            latest.step
        )
        store.prepare()
        assert all(path.name.startswith("step-") for path in store.folder.iterdir())
        assert all(store.find_fault(step) is None for step in store.steps())
        points += 1
    assert points > 15
    assert store.steps() == (1, 4)


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("writer", ["save_file", "write_json", "sync_folder"])
def test_full_disk_by_a_stub(store, monkeypatch, writer):
    save(store, 10)
    monkeypatch.setattr(checkpoint, writer, full_disk)
    with pytest.raises(WeightsError) as raised:
        save(store, 20)
    message = str(raised.value)
    assert str(store.folder) in message
    assert "No space left on device" in message
    assert "it needs 64 bytes and " in message  # 15 weights and a step, float32
    assert "bytes are free" in message
    # A rename that happened is a good checkpoint whose name may not be on the disk.
    newest = 20 if writer == "sync_folder" else 10
    assert f"step-000000{newest}, is intact" in message
    assert store.latest().step == newest
    store.prepare()
    assert not [path for path in store.folder.iterdir() if path.name[0] == "."]


def test_full_disk_for_real(small_disk):
    """Saves of many sizes on 2 MiB: each is whole or is not there."""
    failures = 0
    for trial, size in enumerate(range(20_000, 180_000, 16_000)):
        store = CheckpointStore(small_disk / f"{trial}")
        store.prepare()
        save(store, 10)
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(1_000_000))
        try:
            store.save(20, groups(20, size), {"step": 20})
            message = None
        except WeightsError as error:
            message = str(error)
        if message is not None:
            failures += 1
            assert "No space left on device" in message
            assert "step-00000010, is intact" in message
            assert [path.name for path in store.folder.iterdir()] == ["step-00000010"]
            assert store.latest().step == 10
        else:
            assert store.latest().step == 20
        ballast.unlink()
        for step in store.steps():
            for path in store.path(step).iterdir():
                path.unlink()
    assert 0 < failures < 10


def test_full_disk_at_every_fill_level(small_disk):
    """A fixed save, with less and less room: also the small files hit the wall."""
    store = CheckpointStore(small_disk / "checkpoints")
    store.prepare()
    save(store, 10)
    outcomes = set()
    for pages in range(14):
        free = os.statvfs(small_disk).f_bavail * 4096
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(free - pages * 4096))
        try:
            store.save(20, groups(20), {"step": 20})
            outcomes.add("saved")
            assert store.latest().step == 20
            ballast.unlink()
            store.prune(1, best=None)
            for path in store.path(20).iterdir():
                path.unlink()
            store.path(20).rmdir()
            save(store, 10)
        except WeightsError:
            outcomes.add("refused")
            assert store.latest() == (10, ())
            ballast.unlink()
        store.prepare()
        assert store.steps() == (10,)
    assert outcomes == {"saved", "refused"}


def test_prune_keeps_the_newest_and_the_best(store):
    save(store, 10, 20, 30, 40)
    assert store.prune(2, best=10) == ()
    assert store.steps() == (10, 30, 40)


def test_prune_keeps_the_only_sound_one(store):
    save(store, 10, 20, 30, 40)
    for step in (30, 40):
        damage(store.path(step) / "model.safetensors", "flip")
    store.prune(2, best=None)
    assert store.steps() == (20, 30, 40)
    assert store.latest().step == 20


def test_a_failed_delete_is_a_note(store, monkeypatch):
    save(store, 10, 20)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(checkpoint.shutil, "rmtree", refuse)
    (note,) = store.prune(1, best=None)
    assert "step-00000010 was not deleted (Permission denied)" in note
    assert store.latest().step == 20


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    actions=st.lists(
        st.one_of(
            st.just(("save", 0)),
            st.tuples(st.just("damage"), st.integers(0, 5)),
            st.tuples(st.just("prune"), st.integers(1, 3)),
        ),
        min_size=1,
        max_size=14,
    ),
    best=st.integers(1, 4),
)
def test_retention_against_a_model(tmp_path_factory, actions, best):
    store = CheckpointStore(tmp_path_factory.mktemp("store"))
    store.prepare()
    sound: dict[int, bool] = {}
    step = 0
    for action, number in actions:
        if action == "save":
            step += 1
            save(store, step)
            sound[step] = True
        elif action == "damage" and sound:
            victim = sorted(sound)[-1 - number % len(sound)]
            if sound[victim]:
                damage(store.path(victim) / "model.safetensors", "flip")
            sound[victim] = False
        elif action == "prune":
            store.prune(number, best)
            newest = sorted(sound)[-number:]
            expected = {s for s in sound if s in newest or s == best}
            others = [s for s in sound if s not in expected]
            if others and not any(sound[s] for s in expected):
                good = [s for s in others if sound[s]]
                expected.add(max(good) if good else max(others))
            sound = {s: ok for s, ok in sound.items() if s in expected}
        assert set(store.steps()) == set(sound)
        good = [s for s, ok in sound.items() if ok]
        assert store.latest().step == (max(good) if good else None)
