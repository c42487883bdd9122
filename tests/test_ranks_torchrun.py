"""Ranks that are killed under torchrun, which starts them again: the same bits."""

import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from photos import make_photos
from rank_server import wait_until
from run_folders import count_records, untimed
from torchrun import start_ranks, wait_for

# What people read at the end is tested elsewhere and takes seconds.
SCRIPT = """
import importlib, os, sys
from pathlib import Path
training = importlib.import_module("vitral.workflows.train.train")
from photos import tiny_config
from vitral.workflows.runtime import Runtime

out, photos = Path(sys.argv[1]), sys.argv[2]
(out.parent / f"{out.name}-{os.environ['RANK']}").write_text(str(os.getpid()))
training.finalize = lambda *arguments: None
loop = {"steps": 24, "checkpoint_every": 3, "log_every": 1, "accumulate": 2}
changes = {"depth": 2, "drop_path_rate": 0.2}
config = tiny_config(photos, loop=loop, model_changes=changes)
training.train(config, out, runtime=Runtime(device="cpu", rank_timeout=60))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    make_photos(folder / "photos", per_class=6)
    (folder / "script.py").write_text(SCRIPT)
    return folder


def test_a_rank_killed_twice_ends_bit_equal(place):
    whole, cut = place / "whole", place / "cut"
    words = ["script.py", str(whole), str(place / "photos")]
    undisturbed = start_ranks(2, words, place)
    words = ["--max-restarts", "3", "script.py", str(cut), str(place / "photos")]
    process = start_ranks(2, words, place)
    try:
        for rank, least in ((1, 5), (0, 15)):
            before = count_records(cut)
            wait_until(lambda n=least: count_records(cut) >= n or process.poll(), 120)
            assert count_records(cut) > before
            os.kill(int((place / f"cut-{rank}").read_text()), signal.SIGKILL)
    finally:
        code, _, errors = wait_for(process)
        other, _, more = wait_for(undisturbed)
    assert other == 0, more
    assert code == 0, errors
    assert errors.count("exitcode: -9") == 2
    assert untimed(whole) == untimed(cut)
    last = "checkpoints/step-00000024"
    for name in (
        "model/model",
        *(f"{last}/{g}" for g in ("model", "ema", "optimizer")),
    ):
        file = f"{name}.safetensors"
        one, two = load_file(whole / file), load_file(cut / file)
        assert one.keys() == two.keys()
        assert all(tensor.equal(two[key]) for key, tensor in one.items()), name
    assert not (cut / "lock.json").exists()
