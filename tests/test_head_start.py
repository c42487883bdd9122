"""A fine-tuning that starts from a fitted head, and the head that it ends with."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vitral as vt
from helpers import tiny_vit
from run_folders import untimed
from vitral.data import Preprocess
from vitral.evaluation.probes import fit_head
from vitral.tasks.classification import SupervisedConfig
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig
from vitral.workflows.train.choose_head import pick

pytestmark = pytest.mark.usefixtures("no_report", "one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = tiny_vit(image_size=48, num_classes=0).float()
    vt.save(folder, model, Preprocess(image_size=(48, 48)))
    return folder


def settings(photos, weights, steps=6, **changes) -> TrainConfig:
    return TrainConfig(
        data=str(photos),
        weights=str(weights),
        batch_size=8,
        objective=SupervisedConfig(head="probe"),
        optim=OptimConfig(lr=1e-3),
        schedule=ScheduleConfig(warmup=0),
        loop=LoopConfig(steps=steps),
        **changes,
    )


def head_of(run):
    tensors = load_file(run / "model" / "model.safetensors")
    return tensors["head.weight"], tensors["head.bias"]


def block_of(run):
    return json.loads((run / "model" / "config.json").read_text())["vitral"]


def test_a_linear_probe_makes_no_update(photos, weights, tmp_path):
    run = vt.train(settings(photos, weights, freeze=2), tmp_path / "run")
    model, preprocess, _ = vt.load(weights)
    x, y = vt.features(model, preprocess, str(photos), split="train")
    fitted = fit_head(x.numpy(), y.numpy(), 3)
    weight, bias = head_of(tmp_path / "run")
    assert torch.allclose(weight, torch.from_numpy(fitted.weight), atol=1e-4)
    assert torch.allclose(bias, torch.from_numpy(fitted.bias), atol=1e-4)
    records = untimed(tmp_path / "run")
    assert [it["step"] for it in records if it["event"] == "eval"] == [0]
    assert not [it for it in records if it["event"] == "train"]
    assert run.metrics["test"]["n"] == 24
    before = load_file(weights / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_run_ends_with_one_of_the_heads_and_says_which(photos, weights, tmp_path):
    run = tmp_path / "run"
    vt.train(settings(photos, weights), run)
    head = block_of(run)["head"]
    assert head["chosen"] in ("mean", "tuned", "refit", "probe")
    assert set(head["val"]) == {"mean", "tuned", "refit", "probe"}
    first = (head_of(run), untimed(run))
    vt.train(settings(photos, weights), run, resume=True)
    again = (head_of(run), untimed(run))
    assert all(torch.equal(a, b) for a, b in zip(first[0], again[0], strict=True))
    vt.train(settings(photos, weights), tmp_path / "other")
    assert all(
        torch.equal(a, b)
        for a, b in zip(first[0], head_of(tmp_path / "other"), strict=True)
    )


def test_weights_with_a_head_for_these_classes_keep_it(photos, weights, tmp_path):
    vt.train(settings(photos, weights), tmp_path / "first")
    second = settings(photos, tmp_path / "first", steps=1)
    vt.train(second, tmp_path / "second")
    assert "head" not in block_of(tmp_path / "second")


def test_the_mean_head_stands_unless_another_is_better_by_a_standard_error():
    draw = np.random.default_rng(0)
    mean = (draw.random(200) < 0.7).astype(float)
    much, little = mean.copy(), mean.copy()
    much[np.flatnonzero(mean == 0)[:20]] = 1
    little[np.flatnonzero(mean == 0)[:1]] = 1
    little[np.flatnonzero(mean == 1)[:1]] = 0
    assert pick({"mean": mean, "tuned": little}).name == "mean"
    assert pick({"mean": mean, "tuned": little, "probe": much}).name == "probe"
    assert pick({}).name == "mean"
    assert pick({"mean": mean, "tuned": mean}).accuracy["tuned"] == mean.mean()
