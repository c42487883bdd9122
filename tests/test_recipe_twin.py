"""The twins of the recipes train: one of each code path, end to end, for a few updates.

Two more are begun from what a first one left: a student from its teacher, a fine-tune
and a probe from a masked autoencoder.
"""

import dataclasses
import json
import math

import pytest

import vitral.recipes
import vitral.weights
from clip_files import make_clips
from helpers import TINY
from photos import make_photos
from vitral.cli import main
from vitral.data import Preprocess
from vitral.models import ViT, ViTConfig, get_config
from vitral.recipes import twin
from vitral.recipes.twin import STEPS
from vitral.tasks.classification import DistillConfig
from vitral.tasks.representation import MAEConfig
from vitral.workflows.train import train

UPDATES = 12
LEFT = {
    "checkpoints",
    "command.txt",
    "config.json",
    "data.json",
    "environment.json",
    "metrics.jsonl",
    "model",
    "report.html",
    "split.csv",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("twins") / "photos"
    return str(make_photos(root, splits=(), per_class=14))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def trained(name, photos, out, weights="", teacher=""):
    """The losses of the twin's updates; the files of the run are all there."""
    small = twin(vitral.recipes.get_recipe(name)(photos, weights), steps=UPDATES)
    small = dataclasses.replace(
        small, batch_size=8, loop=dataclasses.replace(small.loop, log_every=4)
    )
    if teacher:
        objective = dataclasses.replace(small.objective, teacher=str(teacher))
        small = dataclasses.replace(small, objective=objective)
    train(small, out / name)
    assert {path.name for path in (out / name).iterdir()} >= LEFT
    lines = (out / name / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [record["loss"] for record in records if record["event"] == "train"]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    return losses


# What each is there for; the loss of the sigmoid ones must fall from the head's bias.
PATHS = {
    "vit.imagenet.l16": "sigmoid, cosine, clipping, dropout, tanh head",
    "vit.jft.r50_l16": "a hybrid; linear decay without val",
    "scaling.gigantic14": "Adafactor, decay of the head, rsqrt, attention pooling",
    "bit.l": "a ResNet, SGD, stairs of 40",
    "augreg.imagenet21k.l16": "the first RandAugment, mixup",
    "vit.masked_patch": "colours of corrupted patches",
}


@pytest.mark.parametrize("name", PATHS)
def test_a_twin_learns(name, photos, runs):
    losses = trained(name, photos, runs)
    assert losses[-1] < losses[0]


def test_a_twin_of_sines_and_softmax_runs(photos, runs):
    trained("plain_vit.s16_90", photos, runs)


def test_a_student_and_its_teacher(photos, runs):
    trained("deit.ti16", photos, runs)  # CutMix, erasing, repeats
    losses = trained("deit.s16_distilled", photos, runs, teacher=runs / "deit.ti16")
    assert losses[0] > 0


def test_a_masked_autoencoder_and_what_follows(photos, runs):
    losses = trained("mae.pretrain_b16", photos, runs)
    assert losses[-1] < losses[0]
    encoder = str(runs / "mae.pretrain_b16")
    trained("mae.finetune_b16", photos, runs, weights=encoder)
    trained("mae.linear", photos, runs, weights=encoder)


@pytest.mark.parametrize("name", vitral.recipes.RECIPES)
def test_a_twin_keeps_what_decides_the_code(name, photos, tmp_path):
    weights = ""
    if name.startswith("clips."):
        photos = str(make_clips(tmp_path / "clips", splits=(), per_class=3))
    if "finetune" in name or name in ("mae.linear", "bit.hyperrule"):
        vitral.weights.save(tmp_path / "w", ViT(ViTConfig(**TINY)), Preprocess())
        weights = str(tmp_path / "w")
    whole = vitral.recipes.get_recipe(name)(photos, weights)
    small = twin(whole)
    assert small.loop.steps == STEPS
    assert small.augment == whole.augment
    assert small.mix == whole.mix
    assert type(small.objective) is type(whole.objective)
    assert small.schedule.schedule == whole.schedule.schedule
    assert bool(small.schedule.warmup) == bool(whole.schedule.warmup)
    assert small.optim.optimizer == whole.optim.optimizer
    assert small.optim.weight_decay == whole.optim.weight_decay
    assert small.loop.precision == whole.loop.precision
    if weights:
        assert small.image_size == 0
        return
    large = get_config(whole.model, dict(whole.model_changes))
    tiny = get_config(small.model, dict(small.model_changes))
    assert type(tiny) is type(large)
    for field in ("global_pool", "position", "class_token", "drop_rate", "head_bias"):
        assert getattr(tiny, field, None) == getattr(large, field, None)
    assert tiny.macs(32) < 3e6 * max(1, tiny.num_frames)
    for field in ("representation_size", "units"):
        assert bool(getattr(tiny, field, 0)) == bool(getattr(large, field, 0))


def test_the_rate_of_sgd_falls_with_the_batch(photos):
    small = twin(vitral.recipes.get_recipe("bit.s")(photos, ""))
    assert small.optim.lr == pytest.approx(0.48 * 32 / 4096)
    assert twin(vitral.recipes.get_recipe("vit.jft.b16")(photos, "")).optim.lr == 8e-4


def test_the_objectives_own_sizes_shrink(photos):
    small = twin(vitral.recipes.get_recipe("mae.pretrain_h14")(photos, ""))
    assert small.objective == MAEConfig(
        decoder_dim=24, decoder_depth=1, decoder_heads=3
    )
    student = twin(vitral.recipes.get_recipe("deit.b16_distilled")(photos, ""))
    assert isinstance(student.objective, DistillConfig)


def test_shares_of_a_known_length_stay(photos):
    schedule = twin(vitral.recipes.get_recipe("scaling.giant14")(photos, ""), steps=200)
    assert (schedule.schedule.warmup, schedule.schedule.cooldown) == (20, 20)
    assert schedule.schedule.timescale == 2


def test_the_command_trains_a_twin(photos, tmp_path, capsys):
    words = ["train", photos, "--recipe", "vit.imagenet.b32", "--twin"]
    out = tmp_path / "run"
    assert main([*words, "--steps", "3", "--warmup", "1", "--out", str(out)]) == 0
    kept = json.loads((out / "config.json").read_text())
    assert kept["recipe"] == "vit.imagenet.b32"
    assert kept["model_changes"]["embed_dim"] == 48
    assert kept["loop"]["steps"] == 3
    assert "a twin" in kept["expected"]
