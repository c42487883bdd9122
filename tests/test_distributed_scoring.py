"""N ranks score exactly what one scores: really started by torchrun, on gloo."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import vitral as vt
from helpers import TINY, randomise
from photos import contents, make_photos, tiny_config
from torchrun import start_ranks, wait_for
from vitral.cli import main
from vitral.data import Preprocess, split_loader
from vitral.errors import ConfigError, DataError
from vitral.models import ViT, ViTConfig
from vitral.tasks.classification import TASK, ClassMetric, Predictions
from vitral.tasks.classification.labels import ClassLabels
from vitral.training import distributed
from vitral.workflows.inference import (
    InferenceSpec,
    measure_batches,
    measure_split,
)

SIZES = (7, 2, 100)
"""Images a batch: several a rank, so few that a batch is lost, one batch for all."""


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """photos/ of 21 test images, two of which share a batch and cannot be read."""
    folder = tmp_path_factory.mktemp("ranks")
    make_photos(folder / "photos", splits=("train", "test"), per_class=7)
    model = ViT(ViTConfig(**{**TINY, "num_classes": 3}))
    randomise(model)
    vt.save(folder / "w", model, Preprocess(image_size=(48, 80)))
    test = vt.data.open(folder / "photos").select("test")
    for example in test[4:6]:
        (folder / "photos" / example.id).write_bytes(b"\x89PNG no image")
    return folder


def scored(folder: Path, batch_size: int) -> Predictions:
    model, preprocess, _ = vt.load(folder / "w")
    data = vt.data.open(folder / "photos")
    loader = split_loader(data, "test", preprocess, batch_size=batch_size)
    labels = ClassLabels(names=data.classes)
    metric, average = ClassMetric(labels), partial(TASK.average, labels=labels)
    spec = InferenceSpec(views="flip", average=average)
    measure_split(model, loader, metric, device=torch.device("cpu"), spec=spec)
    return metric.predictions()


SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
from test_distributed_scoring import SIZES, scored
from vitral.errors import DataError

from vitral.training import distributed as d

folder = Path(sys.argv[1])
with d.process_group(torch.device("cpu")):
    mine = d.get_rank()
    assert d.get_world_size() == 3 and d.get_local_rank() == mine
    assert d.all_gather(mine * 2) == [0, 2, 4]
    made = []
    result = d.broadcast_from_rank_zero(lambda: made.append(1) or "by the first")
    assert result == "by the first"
    assert len(made) == (mine == 0)
    def broken():
        raise DataError("It is broken.")
    try:
        d.broadcast_from_rank_zero(broken)
        raise SystemExit("no error")
    except DataError as error:
        assert str(error) == "It is broken."
    for size in SIZES:
        found = scored(folder, size)
        np.savez(folder / f"{mine}-{size}.npz", ids=np.array(found.ids),
                 labels=found.labels, targets=found.targets, logits=found.logits)
    d.all_gather(0)
assert d.get_world_size() == 1
"""


@pytest.fixture(scope="module")
def three(material) -> Path:
    """The folder after three ranks scored it."""
    (material / "script.py").write_text(SCRIPT)
    code, _, err = wait_for(start_ranks(3, ["script.py", str(material)], material))
    assert code == 0, err
    return material


@pytest.mark.parametrize("size", SIZES)
def test_three_ranks_score_what_one_scores(three, size):
    one = scored(three, size)
    expected = [example.id for example in vt.data.open(three / "photos").select("test")]
    del expected[4:6]
    assert list(one.ids) == expected
    for number in range(3):
        with np.load(three / f"{number}-{size}.npz") as found:
            assert found["ids"].tolist() == expected
            for name in ("labels", "targets", "logits"):
                mine = getattr(one, name)
                assert found[name].dtype == mine.dtype
                assert found[name].tobytes() == mine.tobytes(), name


def test_one_process_scores_what_score_does(material):
    model, preprocess, _ = vt.load(material / "w")
    data = vt.data.open(material / "photos")
    loader = split_loader(data, "test", preprocess, batch_size=7)
    there = torch.device("cpu")
    labels = ClassLabels(names=data.classes)
    metrics = ClassMetric(labels), ClassMetric(labels)
    measure_batches(model, loader.epoch(0), metrics[0], device=there)
    measure_split(model, loader, metrics[1], device=there)
    one, other = (metric.predictions() for metric in metrics)
    assert one.ids == other.ids
    assert one.logits.tobytes() == other.logits.tobytes()


def test_the_batches_of_a_stride_are_those_of_the_epoch(material):
    _, preprocess, _ = vt.load(material / "w")
    data = vt.data.open(material / "photos")
    loader = split_loader(data, "test", preprocess, batch_size=2)
    whole = [batch.id for batch in loader.epoch(0)]
    parts = {
        index: batch.id
        for start in range(3)
        for index, batch in loader.enumerate_batches(0, start, 3)
    }
    assert sorted(parts) == [0, 1, *range(3, 11)]  # batch 2 has no readable image
    assert [parts[index] for index in sorted(parts)] == whole


@pytest.mark.usefixtures("no_report")
def test_the_command_with_two_ranks(material, tmp_path, monkeypatch, capsys):
    photos = make_photos(tmp_path / "p", splits=("train", "test"), per_class=12)
    config = tiny_config(photos, loop={"steps": 4, "eval_every": 4})
    vt.train(config, tmp_path / "run")
    capsys.readouterr()  # the log, if an earlier test ran the command
    words = ["eval", "run", "--device", "cpu"]
    process = start_ranks(2, ["-m", "vitral", *words, "--out", "two"], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", "one"]) == 0
    alone = capsys.readouterr().out.splitlines()
    code, out, err = wait_for(process)
    assert code == 0, err
    # 36 images are two batches of 32, one for each rank.
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 2
    assert out.count("images right") == 1
    assert [line for line in out.splitlines() if "files:" not in line] == [
        line for line in alone if "files:" not in line
    ]


# one process


def test_alone_everything_is_itself():
    with distributed.process_group(torch.device("cpu")):
        assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)
        assert distributed.all_gather("a") == ["a"]
        assert distributed.broadcast_from_rank_zero(lambda: 3) == 3
        with pytest.raises(DataError, match="broken"):
            distributed.broadcast_from_rank_zero(
                lambda: (_ for _ in ()).throw(DataError("broken"))
            )


def test_ranks_that_cannot_meet(monkeypatch):
    settings = {"RANK": "5", "WORLD_SIZE": "2"}
    settings |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "not a port"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match="2 processes of torchrun could not meet"),
        distributed.process_group(torch.device("cpu")),
    ):
        pass


def test_a_probe_is_for_one_process(material, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["eval", str(material / "w"), str(material / "photos")]
    assert main([*words, "--protocol", "knn"]) == 2
    assert "`--protocol knn` runs in one process" in capsys.readouterr().err
