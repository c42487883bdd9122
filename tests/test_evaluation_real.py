"""ReaL labels of ImageNet: the rule by hand, the file, and `vitral eval --real`."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmark_layouts as layouts
from run_folders import without_report
from vitral.cli import main
from vitral.data.sources import torchvision_datasets
from vitral.errors import DataError
from vitral.evaluation import wilson
from vitral.tasks.classification import RealAccuracy, real_accuracy
from vitral.tasks.classification.real import NO_ANSWER, accepted_labels, read_real
from vitral.training import LoopConfig
from vitral.workflows import TrainConfig
from vitral.workflows.train import train

ACCEPTED: list[list[int]] = [*[[0]] * 6, *[[1]] * 3, [1, 0], [], [5]]
"""Of twelve images: the eleventh has no label, the twelfth none of the two classes."""


def test_the_rule():
    # Right: 0 in {0}, 2 in {1, 2}; wrong: 1 in {0}, no answer in {3}; the fifth has no
    # label, so its answer does not count: 2 of 4.
    accepted = [frozenset(labels) for labels in ([0], [1, 2], [0], [3], [])]
    found = real_accuracy(np.array([0, 2, 1, NO_ANSWER, 0]), accepted)
    assert found == RealAccuracy(n=4, left_out=1, accuracy=0.5, interval=wilson(2, 4))
    assert json.loads(json.dumps(found.to_dict()))["kind"] == "real"


def test_what_cannot_be_scored():
    with pytest.raises(DataError, match="2 answers do not fit 1 sets"):
        real_accuracy(np.array([0, 1]), [frozenset([0])])
    with pytest.raises(DataError, match="None of the 2 images has an accepted label"):
        real_accuracy(np.array([0, 1]), [frozenset(), frozenset()])


def test_files_find_their_labels():
    real = [frozenset([number]) for number in range(7)]
    paths = [
        "imagenet/val/n02012849/ILSVRC2012_val_00000007.JPEG",
        "ILSVRC2012_val_00000001.png",
    ]
    assert accepted_labels(paths, real) == (real[6], real[0])
    for name in ("ILSVRC2012_val_00000008.JPEG", "ILSVRC2012_val_00000000.JPEG"):
        with pytest.raises(DataError, match=rf"{name} is not one of the 7 validation"):
            accepted_labels([name], real)
    with pytest.raises(DataError, match="Evaluate the split `test` of imagenet"):
        accepted_labels(["imagenet/train/n01440764/n01440764_3.JPEG"], real)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[[1], [2]", "is not JSON"),
        ("{}", "must hold a list with a list for each image"),
        ("[]", "must hold a list with a list for each image"),
        ("[[1], 3]", "the entry of image 2 must be a list of class numbers, got 3"),
        ('[["n01440764"]]', "the entry of image 1 must be a list of class numbers"),
        ("[[true]]", "the entry of image 1 must be a list of class numbers"),
    ],
)
def test_files_that_are_not_real(content, sentence, tmp_path):
    file = tmp_path / "real.json"
    file.write_text(content)
    with pytest.raises(DataError, match=sentence):
        read_real(file)


def test_an_absent_file(tmp_path):
    with pytest.raises(DataError, match=r"No such file.*reassessed-imagenet"):
        read_real(tmp_path / "real.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A model that knows ImageNet's two classes in another order."""
    folder = tmp_path_factory.mktemp("real")
    for name, red in (("crane", 200), ("tench", 20)):
        for number in range(6):
            file = folder / "photos" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 7), (red, 10 * number, 40)).save(file)
    config = TrainConfig(
        data=str(folder / "photos"),
        model="vit_mu8",
        image_size=(16, 24),
        batch_size=4,
        val=0.0,
        test=0.0,
        loop=LoopConfig(steps=2, eval_every=0),
    )
    with without_report():
        train(config, folder / "run")
    return folder / "run"


@pytest.fixture
def imagenet(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torchvision_datasets._open_torchvision.cache_clear()
    root = tmp_path / "vitral" / "data"
    layouts.imagenet(root)
    (tmp_path / "real.json").write_text(json.dumps(ACCEPTED))
    return tmp_path


def test_eval_real(run, imagenet, capsys):
    broken = imagenet / "vitral/data/imagenet/val/n01440764"
    (broken / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"no picture")
    words = ["eval", str(run), "imagenet", "--real", str(imagenet / "real.json")]
    out = imagenet / "out"
    assert main([*words, "--out", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    text = (out / "imagenet-test.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 12
    right = 0
    for row in rows:
        number = int(Path(row["path"]).stem[-8:])
        # Sorted by WordNet id: tench is 0 and crane is 1, in real.json too.
        answer = {"tench": 0, "crane": 1, "": None}[row["predicted"]]
        right += answer in ACCEPTED[number - 1]
    assert sum(row["predicted"] == "" for row in rows) == 1
    assert f"ReaL: {100 * right / 11:.1f} % of 11 images right" in printed
    assert "1 without an accepted label left out" in printed
    stored = json.loads((out / "imagenet-test-real.json").read_text())
    assert (stored["n"], stored["left_out"]) == (11, 1)
    assert stored["accuracy"] == pytest.approx(right / 11)
    assert main([*words, "--out", str(out), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["real"] == stored


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "goes with the data set imagenet alone: got "),
        (["cifar10"], 2, "goes with the data set imagenet alone: got cifar10"),
        (["imagenet", "--protocol", "knn"], 2, "goes with `--protocol classify`"),
        (["imagenet", "--split", "train"], 3, "is not one of the 12 validation images"),
    ],
)
def test_real_for_anything_else(words, code, sentence, run, imagenet, capsys):
    real = ["--real", str(imagenet / "real.json"), "--device", "cpu"]
    out = ["--out", str(imagenet / "out")]
    assert main(["eval", str(run), *words, *real, *out]) == code
    assert sentence in capsys.readouterr().err
