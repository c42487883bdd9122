"""Several ranks train what one trains: the same batches, losses and weights."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from photos import make_photos
from rank_server import Server

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
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def assert_equal(one: Path, other: Path, ranks: int = 2) -> None:
    """Losses to 1e-6, weights to 1e-5, on every rank."""
    expected, found = losses(one), losses(other)
    assert len(expected) == 20
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert len(set(expected)) == 20
    weights = load_file(one / "rank-0.safetensors")
    for rank in range(ranks):
        for name, tensor in load_file(other / f"rank-{rank}.safetensors").items():
            assert (tensor - weights[name]).abs().max() <= 1e-5, name


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_what_one_trains(server, place, name):
    case, photos = CASES[name], str(place / "photos")
    folder = place / name.replace(" ", "-")
    server.run("train", str(folder / "one"), photos, alone(case), world=1)
    for shard in ("none", "fsdp"):
        out = folder / shard
        server.run("train", str(out), photos, case | {"shard": shard})
        assert_equal(folder / "one", out)
