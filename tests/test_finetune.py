"""Fine-tuning as a measurement: the rate by dev, all of train, seeds, nothing twice."""

import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitral as vt
from helpers import TINY
from photos import make_photos, tiny_config
from run_folders import without_report
from vitral.cli import main
from vitral.data import Preprocess
from vitral.data.strata import hash_fraction
from vitral.errors import ConfigError, DataError, DivergedError, InterruptedRun
from vitral.models import ViT, ViTConfig
from vitral.recipes import plan_finetuning
from vitral.training import OptimConfig
from vitral.training.step import TrainStep
from vitral.workflows.features.extract import dataset_for
from vitral.workflows.runtime import Runtime
from vitral.workflows.transfer.finetune import (
    FinetunePlan,
    finetune,
    merge_val_into_train,
    split_dev,
)

pytestmark = pytest.mark.usefixtures("no_report")

module = importlib.import_module("vitral.workflows.transfer.finetune")

GOOD, DEAD, WILD = 0.1, 1e-9, 1e30
"""Rates that learn, that change nothing, and that leave the finite numbers."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "photos"
    make_photos(root, splits=("train", "test"), per_class=12)
    return make_photos(root, splits=("val",), per_class=4)


@pytest.fixture(scope="module")
def weights(tiny_weights) -> str:
    return str(tiny_weights)


def small_plan(photos: Path, weights: str, **changes: object) -> FinetunePlan:
    config = replace(
        tiny_config(photos),
        model="",
        model_changes={},
        weights=weights,
        optim=OptimConfig(optimizer="sgd"),
        loop=replace(tiny_config(photos).loop, steps=14, ema=0.0, ema_warmup=False),
    )
    fields = {"config": config, "lrs": (DEAD, GOOD, WILD), "dev": 0.2, "seeds": 2}
    return FinetunePlan(**{**fields, **changes})


def quiet(line: str) -> None:
    """For what is announced."""


@pytest.fixture(scope="module")
def result(photos, weights, tmp_path_factory):
    with without_report():
        out = tmp_path_factory.mktemp("out")
        plan = small_plan(photos, weights)
        return out, finetune(plan, out, runtime=Runtime(device="cpu"))


def test_a_planted_bad_rate_is_not_chosen(result):
    _, found = result
    by_rate = {one.lr: one.accuracy for one in found.search}
    assert by_rate[WILD] is None  # diverged, which is no error of the search
    # A rate that moves nothing leaves the zero head: always the first class.
    assert by_rate[GOOD] > by_rate[DEAD]
    assert found.lr == GOOD
    assert {one.lr for one in found.finals} == {GOOD}
    assert "1e+30    dev  diverged" in "\n".join(found.lines())


def test_the_mean_and_deviation_over_seeds_are_those_of_test(result):
    out, found = result
    assert [one.seed for one in found.finals] == [3, 4]
    stored = [
        json.loads((out / one.folder / "predictions" / "test.json").read_text())
        for one in found.finals
    ]
    values = [one["top1"] for one in stored]
    assert [one["n"] for one in stored] == [36, 36]
    assert found.accuracies == values
    assert found.accuracy == pytest.approx((values[0] + values[1]) / 2)
    # Of two numbers the sample's deviation is their distance over the root of 2.
    assert found.deviation == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert np.std(values, ddof=1) == pytest.approx(found.deviation)


def splits_of(run: Path) -> dict[str, str]:
    with (run / "split.csv").open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_dev_is_cut_out_of_train_and_the_end_learns_from_all_of_it(result, photos):
    out, found = result
    search = [splits_of(out / one.folder) for one in found.search]
    assert search[0] == search[1] == search[2]
    counts = {name: list(search[0].values()).count(name) for name in search[0].values()}
    # 48 images of train and val, a fifth of them dev.
    assert counts == {"train": 38, "val": 10, "test": 36}
    final = splits_of(out / found.finals[0].folder)
    assert {path for path, split in final.items() if split == "train"} == {
        path.relative_to(photos).as_posix()
        for name in ("train", "val")
        for path in (photos / name).rglob("*.png")
    }
    assert {path for path, split in final.items() if split == "test"} == {
        path for path, split in search[0].items() if split == "test"
    }
    assert found.num_train_images == 48
    assert "val" not in final.values()


def test_nothing_is_trained_twice(result, monkeypatch):
    out, found = result
    monkeypatch.setattr(module, "train", None)
    again = finetune(found.plan, out, runtime=Runtime(device="cpu"))
    assert not any(one.fresh for one in (*again.search, *again.finals))
    assert again.accuracies == found.accuracies
    with pytest.raises(TypeError):  # other settings are other trainings
        finetune(replace(found.plan, lrs=(0.05, GOOD)), out)


def test_an_unfinished_training_resumes(result, monkeypatch, tmp_path):
    _, whole = result
    only = replace(whole.plan, lrs=(GOOD,), seeds=1)

    def interrupted(*arguments):
        raise InterruptedRun("cut", 143)

    with monkeypatch.context() as patch:
        patch.setattr(
            "vitral.training.loop.Trainer.is_done", lambda loop: loop.state.step > 7
        )
        training = importlib.import_module("vitral.workflows.train.train")
        patch.setattr(training, "finalize", interrupted)
        with pytest.raises(InterruptedRun):
            finetune(only, tmp_path, runtime=Runtime(device="cpu"))
    (folder,) = (tmp_path / "runs").iterdir()
    assert any((folder / "checkpoints").iterdir())
    steps = []
    monkeypatch.setattr(
        "vitral.training.step.TrainStep.update", counted(TrainStep.update, steps)
    )
    found = finetune(only, tmp_path, runtime=Runtime(device="cpu"))
    assert len(steps) == 6  # of 14
    assert found.finals[0].nll == whole.finals[0].nll
    # One rate needs no search, and one seed has no deviation.
    assert found.search == ()
    assert found.deviation is None


def counted(original, calls):
    def call(*arguments):
        calls.append(1)
        return original(*arguments)

    return call


def test_every_rate_diverges(photos, weights, tmp_path):
    with pytest.raises(
        DivergedError, match=r"with every learning rate of 1e\+30, 1e\+"
    ):
        finetune(small_plan(photos, weights, lrs=(WILD, 1e31)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lrs": ()}, "above 0"),
        ({"lrs": (0.1, -1.0)}, "above 0"),
        ({"lrs": (0.1, 0.1)}, "twice"),
        ({"seeds": 0}, "at least 1"),
        ({"dev": 1.0}, "inside 0..1"),
    ],
)
def test_a_plan_that_cannot_be(photos, weights, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        small_plan(photos, weights, **changes)


# the dev split


def test_groups_never_part(tmp_path):
    make_photos(tmp_path / "p", splits=(), per_class=8)
    data = vt.data.open(tmp_path / "p", group_by=r"/(\d)\.png")
    parted = split_dev(merge_val_into_train(data), 0.3)
    by_group: dict[str, set[str]] = {}
    for example in parted.examples:
        by_group.setdefault(example.group, set()).add(example.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert {"val"} in by_group.values()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5])
def test_every_class_gives_dev_its_share(share, tmp_path):
    """A class of 40, one of 10 and one of a single image, as scikit-learn divides."""
    counts = {"many": 40, "some": 10, "one": 1}
    for name, count in counts.items():
        (tmp_path / "p" / "train" / name).mkdir(parents=True)
        (tmp_path / "p" / "test" / name).mkdir(parents=True)
        for number in range(count):
            color = (number, len(name), 0)
            file = tmp_path / "p" / "train" / name / f"{number}.png"
            Image.new("RGB", (4, 4), color).save(file)
        Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "p/test" / name / "0.png")
    parted = split_dev(merge_val_into_train(vt.data.open(tmp_path / "p")), share)
    found = parted.counts()
    for name, count in counts.items():
        assert found["train"][name] + found["val"].get(name, 0) == count
        assert abs(found["val"].get(name, 0) - share * count) < 1
        assert found["train"][name] >= 1
    assert sum(found["val"].values()) >= 1
    assert sum(found["test"].values()) == 3


def test_dev_is_stable_and_not_the_hash_of_the_test_split(tmp_path):
    """New images move no old one by more than the rounding of its class."""
    data = vt.data.open(make_photos(tmp_path / "p", splits=(), per_class=20))
    test = {example.id for example in data.select("test")}
    dev = split_dev(merge_val_into_train(data), 0.3)
    again = split_dev(merge_val_into_train(data), 0.3)
    chosen = {example.id for example in dev.select("val")}
    assert chosen == {example.id for example in again.select("val")}
    assert not chosen & test
    # The same seed would take the images whose hashes follow those of test.
    order = sorted(
        (e.id for e in data.examples if e.id not in test and "/" in e.id),
        key=lambda name: hash_fraction(0, name),
    )
    assert chosen != set(order[: len(chosen)])


def test_too_few_for_dev(tmp_path):
    make_photos(tmp_path / "p", splits=("train", "test"), per_class=1)
    data = merge_val_into_train(vt.data.open(tmp_path / "p"))
    with pytest.raises(DataError, match="too few to choose a learning rate"):
        split_dev(data, 0.9)


def test_the_own_data_of_a_run_keeps_its_split(photos, weights, tmp_path):
    own = make_photos(tmp_path / "own", splits=(), per_class=8)
    run = vt.train(
        tiny_config(own, seed=9, loop={"steps": 1, "eval_every": 1}), tmp_path / "run"
    )
    split = splits_of(run.path)
    held_out = {path for path, name in split.items() if name == "test"}
    plan = small_plan(own, str(run.path), lrs=(GOOD,), seeds=1)
    found = finetune(plan, tmp_path / "out")
    after = splits_of(tmp_path / "out" / found.finals[0].folder)
    assert {path for path, name in after.items() if name == "test"} == held_out
    fresh = dataset_for(weights, own).select("test")
    assert {example.id for example in fresh} != held_out


# the settings


def test_the_plan_is_table_4_and_says_what_differs(photos, weights):
    paper = plan_finetuning(weights, str(photos))
    assert paper.lrs == (0.001, 0.003, 0.01, 0.03)
    assert (paper.dev, paper.seeds) == (0.1, 3)
    assert paper.config.image_size == 384
    assert paper.config.batch_size == 512
    assert paper.config.loop.steps == 500
    assert paper.differs == (f"{photos} is not in its table 4",)
    assert "vit.finetune" in paper.why
    ours = plan_finetuning(
        weights,
        str(photos),
        lrs=(0.02,),
        steps=50,
        image_size=(32, 48),
        batch_size=100,
        seeds=1,
        seed=7,
    )
    assert ours.differs[1:] == (
        "image size (32, 48) instead of 384",
        "batch 100 instead of 512",
        "steps 50 instead of 500",
        "learning rates 0.02 instead of 0.001, 0.003, 0.01, 0.03",
        "seeds 1 instead of 3",
    )
    assert ours.config.schedule.warmup == 10  # its share: 100 of 500
    assert ours.config.loop.accumulate == 2  # parts of at most 64 images
    assert ours.config.seed == 7


def test_a_patch_of_14_gets_a_size_that_it_divides(photos, tmp_path):
    model = ViT(ViTConfig(**{**TINY, "patch_size": 14, "image_size": (42, 70)}))
    vt.save(tmp_path, model, Preprocess(image_size=(42, 70)))
    found = plan_finetuning(str(tmp_path), str(photos))
    assert found.config.image_size == 378
    assert "image size 378 instead of 384" in found.differs


def test_the_command(photos, weights, tmp_path, capsys):
    words = ["eval", weights, str(photos), "--protocol", "finetune", "--lrs", "0.1"]
    words += ["--steps", "5", "--batch-size", "12", "--image-size", "32", "48"]
    words += ["--seeds", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "not as in the paper: steps 5 instead of 500" in out
    assert "finetune: " in out
    assert "learned from 48 images" in out
    stored = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert stored["plan"]["config"]["loop"]["steps"] == 5
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == stored["accuracy"]
    assert main(["eval", weights, "--protocol", "finetune"]) == 2
    assert "no data of its own" in capsys.readouterr().err
