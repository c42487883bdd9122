"""Several ranks train what one trains: the same batches, losses and weights."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from photos import make_photos
from rank_server import Server, wait_until
from run_folders import untimed
from vitral.training import CheckpointStore

DROPS = {"drop_rate": 0.1, "drop_path_rate": 0.2}
CASES = {
    # batches of 8, 8 and 5 images, in 4 parts: drawn numbers are those of the parts
    "everything": {
        "model": DROPS,
        "mix": {"mixup": 0.4, "cutmix": 1.0},
        "objective": {"class_weights": [0.2, 1.0, 5.0], "smoothing": 0.1},
        "loop": {"accumulate": 2, "ema": 0.9},
        "clip": 0.5,
    },
    # the last batch has one image: fewer than ranks
    "one image left": {
        "batch_size": 10,
        "model": DROPS,
        "optim": {"optimizer": "sgd"},
        "mix": {"mixup": 0.4},
    },
    "without labels": {"mae": True, "loop": {"accumulate": 3}},
    "bfloat16": {"model": DROPS, "loop": {"precision": "bf16"}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """photos/ of 21 images, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("ranks")
    make_photos(folder / "photos", splits=("train",), per_class=7)
    (folder / "photos" / "train" / "green" / "4.png").write_bytes(b"\x89PNG no image")
    return folder


@pytest.fixture(scope="module")
def server(place):
    started = Server(place)
    yield started
    started.close()


def alone(case: dict) -> dict:
    """The same for one process: its parts are those of both ranks."""
    loop = dict(case.get("loop", {}))
    loop["accumulate"] = 2 * loop.get("accumulate", 1)
    return case | {"loop": loop}


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in untimed(folder) if line["event"] == "train"]


def assert_equal(one: Path, other: Path, ranks: int = 2, to: float = 1e-6) -> None:
    """Losses to 1e-6 for ten steps, then to `to`; weights to 10 times that."""
    expected, found = losses(one), losses(other)
    assert len(expected) == 20
    first = 1e-6 if to < 1e-3 else to
    assert found[:10] == pytest.approx(expected[:10], rel=first, abs=first)
    assert found == pytest.approx(expected, rel=to, abs=to)
    assert len(set(expected)) == 20
    weights = load_file(one / "rank-0.safetensors")
    for rank in range(ranks):
        for name, tensor in load_file(other / f"rank-{rank}.safetensors").items():
            assert (tensor - weights[name]).abs().max() <= 10 * to, name


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_what_one_trains(server, place, name):
    case, photos = CASES[name], str(place / "photos")
    folder = place / name.replace(" ", "-")
    server.run("train", str(folder / "one"), photos, alone(case), world=1)
    for shard in ("none", "fsdp"):
        out = folder / shard
        server.run("train", str(out), photos, case | {"shard": shard})
        # In bfloat16 a last digit of float32 decides how a number is rounded. Without
        # labels a difference in the last digit doubles with each late update.
        to = {"bfloat16": 5e-3, "without labels": 2e-4}.get(name, 1e-6)
        assert_equal(folder / "one", out, to=to)


SAVED = {
    "model": DROPS,
    "mix": {"mixup": 0.4},
    "evaluate": True,
    "loop": {
        "steps": 11,
        "accumulate": 2,
        "ema": 0.9,
        "checkpoint_every": 3,
        "eval_every": 4,
    },
}


def assert_same_run(one: Path, other: Path, world: int) -> None:
    assert untimed(one) == untimed(other)
    for rank in range(world):
        name = f"rank-{rank}.safetensors"
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(("shard", "world"), [("none", 3), ("fsdp", 2)])
def test_a_killed_rank_ends_the_run_which_resumes_bit_equal(
    server, place, shard, world
):
    """Three ranks add up in another order than two: that order must stay too."""
    photos, case = str(place / "photos"), SAVED | {"shard": shard}
    whole, cut = place / f"whole-{shard}", place / f"cut-{shard}"
    server.run("train", str(whole), photos, case, world=world)
    began = time.monotonic()
    kill = {"kill": [1, 7, signal.SIGKILL]}
    server.start("train", str(cut), photos, case | kill, world=world)
    codes = server.codes()
    assert time.monotonic() - began < 30
    assert codes[1] == -signal.SIGKILL
    assert codes[::2] == [1] * len(codes[::2])
    said = [(cut / f"error-{rank}.txt").read_text() for rank in range(0, world, 2)]
    assert said[0].startswith("Rank 1 was killed, or the machine or the network")
    assert "(rank 0 of " in said[0]
    assert "run the same command with --resume" in said[0]
    assert all(text.startswith("quiet: Rank 1 was killed") for text in said[1:])
    assert CheckpointStore(cut / "checkpoints").steps() == (3, 6)
    server.run("train", str(cut), photos, case | {"resume": True}, world=world)
    assert_same_run(whole, cut, world)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(server, place):
    photos, out = str(place / "photos"), place / "signal"
    case = SAVED | {"kill": [1, 5, signal.SIGTERM]}
    server.start("train", str(out), photos, case)
    assert server.codes() == [143, 143]
    said = [(out / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert said[0].startswith("Stopped by SIGTERM: step 6 of 11 is saved in ")
    assert said[1] == f"quiet: {said[0]}"
    assert CheckpointStore(out / "checkpoints").latest().step == 6


@pytest.mark.parametrize(
    ("trouble", "codes", "sentence"),
    [
        ("raise", [3, 3], "The shelf of photos fell over."),
        ("nan", [5, 5], "Training diverged at step 5: loss nan, gradient norm nan"),
        ("bug", [1, 1], "Rank 1 stopped: 'no such shelf'"),
        ("hang", [1, -9], "Rank 1 was silent for 3 seconds"),
    ],
)
def test_what_goes_wrong_on_one_rank_stops_all(server, place, trouble, codes, sentence):
    out = place / trouble
    case = {trouble: [1, 5], "timeout": 60 if trouble != "hang" else 3}
    began = time.monotonic()
    server.start("train", str(out), str(place / "photos"), case)
    if trouble == "hang":
        wait_until((out / "error-0.txt").exists)
        server.kill_rank(1)  # rank 0 has its sentence and ends by itself
    assert server.codes() == codes
    assert time.monotonic() - began < 30
    said = (out / "error-0.txt").read_text().removeprefix("quiet: ")
    assert said.startswith(sentence)
    if trouble == "nan":
        lines = said.split("The batch: ")[1].split(". Lower")[0].split(", ")
        assert len(lines) == 8  # of both ranks
        assert (out / "error-1.txt").read_text() == f"quiet: {said}"


def test_a_sharded_checkpoint_goes_on_in_one_process(server, place):
    photos, out = str(place / "photos"), place / "fewer"
    case = SAVED | {"shard": "fsdp", "loop": SAVED["loop"] | {"checkpoint_every": 4}}
    server.start("train", str(out), photos, case | {"kill": [0, 6, signal.SIGKILL]})
    assert server.codes()[0] == -signal.SIGKILL
    case |= {"shard": "none", "resume": True}
    server.run("train", str(out), photos, case, world=1)
    notes = json.loads((out / "notes-0.json").read_text())
    assert [note.split(":")[0] for note in notes] == [
        "Resumed with shard none instead of fsdp",
        "Resumed with 1 ranks instead of 2",
    ]
    last = CheckpointStore(out / "checkpoints").load(11)
    assert set(last.tensors) == {"model", "ema", "optimizer"}
    assert all(bool(torch.isfinite(t).all()) for t in last.tensors["ema"].values())
    # And back: whole tensors are cut again.
    case |= {"shard": "fsdp"}
    server.run("train", str(out), photos, case)
    kept = load_file(out / "rank-1.safetensors")
    for name, tensor in last.tensors["ema"].items():
        assert tensor.equal(kept[name])
