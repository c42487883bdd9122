"""The recipes of the papers' pre-training: their numbers, and what they say of them."""

import inspect
import math
import re
from pathlib import Path

import pytest

import vitral.models
import vitral.recipes
import vitral.weights
from helpers import TINY
from test_recipes import HERE
from vitral import config_io
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.models import ViT, ViTConfig
from vitral.recipes.augreg import LEVELS, MODELS, SETTINGS, grid
from vitral.recipes.table import format_scientific
from vitral.recipes.vit_pretraining import TABLE_3
from vitral.tasks.classification import DistillConfig, SupervisedConfig
from vitral.tasks.representation import MAEConfig, MaskedPatchConfig
from vitral.training import lr_at, steps_for
from vitral.workflows import TrainConfig
from vitral.workflows.cost.plan import estimate_workload

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
NAMES = [name for name in vitral.recipes.RECIPES if name not in HERE]
FROM_ZERO = [name for name in NAMES if name != "mae.linear"]

# arXiv 2010.11929, table 3: epochs, rate, decay of the rate, weight decay, dropout.
PAPER = {
    "vit.jft.b16": (7, 8e-4, "linear", 0.1, 0.0),
    "vit.jft.b32": (7, 8e-4, "linear", 0.1, 0.0),
    "vit.jft.l32": (7, 6e-4, "linear", 0.1, 0.0),
    "vit.jft.l16": (14, 4e-4, "linear", 0.1, 0.0),
    "vit.jft.h14": (14, 3e-4, "linear", 0.1, 0.0),
    "vit.jft.r50x1": (7, 1e-3, "linear", 0.1, 0.0),
    "vit.jft.r50x2": (7, 1e-3, "linear", 0.1, 0.0),
    "vit.jft.r101x1": (7, 8e-4, "linear", 0.1, 0.0),
    "vit.jft.r152x1": (7, 6e-4, "linear", 0.1, 0.0),
    "vit.jft.r152x2": (14, 6e-4, "linear", 0.1, 0.0),
    "vit.jft.r200x3": (14, 6e-4, "linear", 0.1, 0.0),
    "vit.jft.r50_b16": (7, 8e-4, "linear", 0.1, 0.0),
    "vit.jft.r50_b32": (7, 8e-4, "linear", 0.1, 0.0),
    "vit.jft.r50_l32": (7, 2e-4, "linear", 0.1, 0.0),
    "vit.jft.r50_l16": (14, 4e-4, "linear", 0.1, 0.0),
    "vit.imagenet21k.b16": (90, 1e-3, "linear", 0.03, 0.1),
    "vit.imagenet21k.b32": (90, 1e-3, "linear", 0.03, 0.1),
    "vit.imagenet21k.l16": (90, 1e-3, "linear", 0.03, 0.1),
    "vit.imagenet21k.l32": (90, 1e-3, "linear", 0.03, 0.1),
    "vit.imagenet.b16": (300, 3e-3, "cosine", 0.3, 0.1),
    "vit.imagenet.b32": (300, 3e-3, "cosine", 0.3, 0.1),
    "vit.imagenet.l16": (300, 3e-3, "cosine", 0.3, 0.1),
    "vit.imagenet.l32": (300, 3e-3, "cosine", 0.3, 0.1),
}


def data_of(name: str) -> str:
    """The data set of the command in the docstring."""
    text = inspect.getdoc(vitral.recipes.get_recipe(name))
    found = re.search(r"^Command: `vitral train (\w+) ", text, re.M)
    assert found, name
    return found[1]


def planned(name: str):
    return vitral.recipes.get_recipe(name)(data_of(name), "")


@pytest.mark.parametrize("name", FROM_ZERO)
def test_every_recipe_can_be_planned_and_costs_what_it_says(name):
    config = planned(name)
    assert config.recipe == name
    plain = config_io.to_dict(config)
    assert config_io.from_dict(TrainConfig, plain, "config.json") == config
    work = estimate_workload(config)  # refuses what `train` would
    text = " ".join(inspect.getdoc(vitral.recipes.get_recipe(name)).split())
    said = re.search(r"Cost: (\d\.\d\de\d+) floating-point operations", text)
    assert float(said[1]) == pytest.approx(work.flops, rel=0.006)
    assert "not run here" in config.expected
    assert f"Expect: {config.expected}" in text
    assert f"--recipe {name} " in text or f"--recipe {name}`" in text
    (row,) = (line for line in PAGE.splitlines() if f"| `{name}` |" in line)
    assert f" {work.updates:,} x {work.batch_size:,} | {work.parameters:,} |" in row
    assert f" {work.macs / 1e9:.2f}e9 | {format_scientific(work.flops)} |" in row
    assert config.loop.precision == "bf16"
    assert config.schedule.warmup > 0
    assert math.isclose(work.epochs, config.epochs, rel_tol=1e-3) or config.loop.steps


def test_table_3_is_the_paper():
    found = {
        name for name in NAMES if name.split(".")[1] in TABLE_3 and name[:3] == "vit"
    }
    assert found == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_a_row_of_table_3(name):
    epochs, lr, decay, weight_decay, dropout = PAPER[name]
    config = planned(name)
    assert (config.epochs, config.optim.lr) == (epochs, lr)
    assert config.schedule.schedule == decay
    assert config.schedule.warmup == 10_000
    assert config.optim.weight_decay == weight_decay
    assert config.optim.betas == (0.9, 0.999)
    assert config.optim.clip_norm == (1.0 if name.startswith("vit.imagenet.") else 0)
    assert (config.batch_size, config.image_size) == (4096, 224)
    assert config.objective == SupervisedConfig(loss="sigmoid")
    model = vitral.models.get_config(config.model, dict(config.model_changes))
    assert model.head_bias == -10
    if "r" not in name.split(".")[2][:1] or "_" in name:  # not a ResNet alone
        assert model.drop_rate == dropout
        assert model.representation_size == model.embed_dim
    end = lr_at(90_000, 90_000, lr, config.schedule)
    assert end == pytest.approx(1e-5 if decay == "linear" else 0, abs=1e-12)


def test_shorter_rows_of_table_3_are_named():
    text = inspect.getdoc(vitral.recipes.get_recipe("vit.jft.l16"))
    assert text.startswith(
        "Table 3: vit_l16 on JFT-300M for 14 epochs, or for 7 with `--epochs 7`."
    )


def test_the_28_settings_of_augreg():
    assert len(SETTINGS) == len(set(SETTINGS)) == 28
    configs = grid("imagenet21k", "vit_l16")
    assert len(configs) == 28
    seen = set()
    for config in configs.values():
        changes = config.model_changes
        assert changes["drop_rate"] == changes["drop_path_rate"]
        level = (
            config.augment.rand_augment,
            config.augment.rand_augment_magnitude,
            config.mix.mixup,
        )
        assert level in LEVELS.values()
        seen.add((level, changes["drop_rate"], config.optim.weight_decay))
    assert {rate for _, rate, _ in seen} == {0.0, 0.1}
    assert {decay for *_, decay in seen} == {0.1, 0.03}
    assert len(seen) == 28
    assert estimate_workload(config).updates == steps_for(14_146_012, 300, 4096)
    strongest = configs["strong2, rate 0.1, decay 0.03"]
    assert strongest.augment.policy == "rand_original"
    assert strongest.augment.rand_augment_magnitude == 20
    assert strongest.mix.mixup == 0.8
    elsewhere = grid("photos")["none, rate 0, decay 0.1"]
    assert (elsewhere.data, elsewhere.epochs, elsewhere.mix.mixup) == ("photos", 300, 0)


def test_augregs_own_defaults():
    for name, level in (("ti16", "light1"), ("s32", "medium1"), ("b16", "medium2")):
        config = planned(f"augreg.imagenet.{name}")
        layers, magnitude, mixup = LEVELS[level]
        assert config.augment.rand_augment == layers
        assert config.augment.rand_augment_magnitude == magnitude
        assert config.mix.mixup == mixup
        assert config.model_changes["head_bias"] == -6.9
        assert config.optim.weight_decay == 0.1
        assert "representation_size" not in config.model_changes
    assert set(MODELS) == {
        planned(name).model for name in NAMES if name.startswith("augreg.")
    }
    assert planned("augreg.imagenet21k.b16").model_changes["head_bias"] == -10


def test_the_plain_s16():
    config = planned("plain_vit.s16_90")
    model = estimate_workload(config).model
    assert (model.position, model.global_pool, model.class_token) == (
        "sincos_2d",
        "avg",
        False,
    )
    assert (config.batch_size, config.optim.lr, config.optim.weight_decay) == (
        1024,
        1e-3,
        0.1,
    )
    assert config.objective == SupervisedConfig(loss="softmax")
    for epochs in (150, 300):
        longer = planned(f"plain_vit.s16_{epochs}")
        assert longer.epochs == epochs
        assert longer.optim == config.optim


def test_the_gigantic_model():
    config = planned("scaling.gigantic14")
    work = estimate_workload(config)
    assert work.updates == 1_000_000
    assert config.batch_size == 16_384
    assert (config.optim.optimizer, config.optim.lr) == ("adafactor", 8e-4)
    assert (config.optim.weight_decay, config.optim.head_decay) == (0.03, 3.0)
    assert (work.model.global_pool, work.model.grid) == ("map", (16, 16))
    assert lr_at(110_000, 1_000_000, 8e-4, config.schedule) == pytest.approx(
        2.412091e-4, rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "schedule", "epochs", "steps"),
    [
        ("bit.s", "step_of_90", 90, 27_869),
        ("bit.m", "step_of_90", 90, 311_948),
        ("bit.l", "step_of_40", 40, 2_958_984),
    ],
)
def test_bit(name, schedule, epochs, steps):
    config = planned(name)
    assert config.optim.lr == pytest.approx(0.48)
    assert config.optim.weight_decay == 1e-4
    assert (config.schedule.schedule, config.schedule.warmup) == (schedule, 5_000)
    assert config.epochs == epochs
    assert estimate_workload(config).updates == steps


def test_deit():
    config = planned("deit.b16_distilled")
    assert config.optim.lr == 1e-3
    assert (config.mix.mixup, config.mix.cutmix) == (0.8, 1.0)
    assert (config.augment.repeats, config.augment.random_erasing) == (3, 0.25)
    assert config.schedule.warmup == 6_256
    assert config.objective == DistillConfig(kind="hard", smoothing=0.1)
    assert config.optim.clip_norm == 0
    assert planned("deit.b16").objective == SupervisedConfig(smoothing=0.1)


def test_the_masked_autoencoders(tmp_path):
    config = planned("mae.pretrain_l16")
    assert config.optim.lr == pytest.approx(2.4e-3)
    assert config.optim.betas == (0.9, 0.95)
    assert config.objective == MAEConfig()
    assert config.augment.crop_area == (0.2, 1.0)
    assert config.schedule.warmup == 12_511
    for size, lr, decay, path in (
        ("b16", 2e-3, 0.65, 0.1),
        ("l16", 4e-3, 0.75, 0.2),
        ("h14", 4e-3, 0.75, 0.3),
    ):
        tuned = planned(f"mae.finetune_{size}")
        assert tuned.optim.lr == pytest.approx(lr)
        assert tuned.optim.layer_decay == decay
        assert tuned.model_changes["drop_path_rate"] == path
    vitral.weights.save(tmp_path / "w", ViT(ViTConfig(**TINY)), Preprocess())
    probe = vitral.recipes.get_recipe("mae.linear")("imagenet", str(tmp_path / "w"))
    assert probe.freeze == TINY["depth"]
    work = estimate_workload(probe)
    assert work.flops == pytest.approx(2 * work.macs * work.images)


def test_masked_patches():
    config = planned("vit.masked_patch")
    assert config.objective == MaskedPatchConfig()
    assert (config.loop.steps, config.batch_size) == (1_000_000, 4096)
    assert (config.optim.lr, config.schedule.schedule) == (2e-4, "cosine")


def test_a_short_run_is_refused_with_a_sentence():
    config = vitral.recipes.get_recipe("vit.imagenet.b16")("flowers102", "")
    with pytest.raises(
        ConfigError, match=r"10000 steps\) must be shorter than the run"
    ):
        estimate_workload(config)


def test_groups_are_the_first_words_of_the_names():
    groups = vitral.recipes.group_names()
    names = [f"{group}.{last}" for group, lasts in groups.items() for last in lasts]
    assert names == list(vitral.recipes.RECIPES)
    assert groups["vit.imagenet"] == ["b16", "b32", "l16", "l32"]
