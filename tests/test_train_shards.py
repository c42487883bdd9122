"""A run on shards: killed within an epoch and resumed, damaged shards, the command."""

import io
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

import vitral as vt
from helpers import captured_log
from photos import contents, photo, tiny_config
from shard_files import labelled, pack, pack_rows
from vitral.cli import main
from vitral.data import AugmentConfig
from vitral.workflows import TrainConfig


def picture(number: int) -> bytes:
    out = io.BytesIO()
    photo(number % 3, number).save(out, "PNG")
    return out.getvalue()


pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(folder: Path, suffix: str) -> Path:
    """Two shards of 45 pictures to train on and one of 15 for val."""
    for shard, name in enumerate(("train-0", "train-1", "val-0")):
        numbers = range(shard * 45, shard * 45 + (45 if shard < 2 else 15))
        if suffix == ".tar":
            members = labelled(numbers)
            for place, number in enumerate(numbers):
                members[2 * place] = (members[2 * place][0], picture(number))
            pack(folder / f"{name}.tar", members)
        else:
            pack_rows(folder / f"{name}.parquet", numbers, group=8)
    return folder


def config_of(folder: Path) -> TrainConfig:
    """Six batches an epoch and a checkpoint every five steps: in their middle."""
    return tiny_config(
        folder,
        epochs=4.0,
        augment=AugmentConfig(shift=0.1, flip=0.5),
        loop={"checkpoint_every": 5},
    )


def start(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    vt.train(config_of(folder), out, resume=True)


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_killed_within_an_epoch_and_resumed_it_is_bit_equal(suffix, tmp_path):
    folder = make(tmp_path / "set", suffix)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = vt.train(config_of(folder), tmp_path / "whole")
    out = tmp_path / "cut"
    process = multiprocessing.get_context("forkserver").Process(
        target=start, args=(folder, out)
    )
    process.start()
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*/manifest.json")):
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    saved = sorted(out.glob("checkpoints/step-*/manifest.json"))[-1].parent
    assert int(saved.name.removeprefix("step-")) in (5, 10, 15, 20)
    resumed = vt.train(config_of(folder), out, resume=True)
    torch.set_num_threads(threads)
    for name, value in whole.model.state_dict().items():
        assert value.equal(resumed.model.state_dict()[name]), name
    last = "checkpoints/step-00000024"
    tensors = contents(tmp_path / "whole" / last)
    again = contents(out / last)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert tensors[name] == again[name]


def test_a_damaged_shard_is_in_the_files_of_the_run(tmp_path, capsys):
    folder = make(tmp_path / "set", ".tar")
    file = folder / "train-1.tar"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    before = contents(folder)
    with captured_log() as heard:
        run = vt.train(tiny_config(folder, epochs=1.0), tmp_path / "run")
    about = json.loads((run.path / "data.json").read_text())
    assert about["bad"] == []
    assert [item["path"] for item in about["ignored"]] == ["train-1.tar"]
    assert "cut off" in about["ignored"][0]["reason"]
    (note,) = [note for note in about["notes"] if "train-1.tar" in note]
    assert f"note: {note}" in heard
    used = int(note.split("; ")[1].split()[0])
    assert 0 < used < 45
    assert sum(about["counts"]["train"].values()) == 45 + used
    capsys.readouterr()
    assert main(["data", "check", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert f"ignored: train-1.tar ({about['ignored'][0]['reason']})" in printed
    assert f"note: {note}" in printed
    assert f"train: {45 + used} images (0 " in printed
    assert main(["eval", str(run.path), f"{folder}/val-0.tar"]) == 0
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("word", "code", "sentence"),
    [
        ("pipe:cat x.tar", 2, "Commands are never run"),
        ("https://host/x-{0..9}.tar", 2, "Shards are not opened by URL"),
        ("absent.tar", 3, "absent.tar is not there"),
    ],
)
def test_the_command_refuses_in_a_sentence(word, code, sentence, capsys):
    assert main(["data", "check", word]) == code
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "Traceback" not in printed
