"""Recipes: each one builds, says what it costs, and names only things that exist."""

import inspect
import re

import pytest

import vitral.recipes
import vitral.weights
from clip_files import make_clips
from helpers import TINY
from photos import make_photos, photo, prepare_model, prepare_objective
from vitral.data import Preprocess
from vitral.errors import ConfigError, DataError
from vitral.models import TimeSformer, TimeSformerConfig, ViT, ViTConfig
from vitral.recipes.vit import TABLE_4, row_for
from vitral.tasks.classification import SupervisedConfig
from vitral.training import lr_at, steps_for
from vitral.workflows import TrainConfig
from vitral.workflows.dataset import open_data, run_input_kind
from vitral.workflows.train.build import build_optimizer

# arXiv 2010.11929, table 4: steps and learning rates of fine-tuning.
PAPER = {
    "imagenet": (20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "oxford_iiit_pet": (500, (0.001, 0.003, 0.01, 0.03)),
    "flowers102": (500, (0.001, 0.003, 0.01, 0.03)),
    "vtab": (2_500, (0.01,)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Enough images for a split by hash; smaller ones than any recipe asks for."""
    root = tmp_path_factory.mktemp("recipes") / "photos"
    return str(make_photos(root, splits=(), per_class=14))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model of 6 blocks with patches of 16, which 224 and 384 are multiples of."""
    path = tmp_path_factory.mktemp("weights")
    config = {**TINY, "depth": 9}
    vitral.weights.save(path, ViT(ViTConfig(**config)), Preprocess(image_size=(48, 80)))
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipes") / "clips"
    return str(make_clips(root, splits=(), per_class=12))


@pytest.fixture(scope="module")
def video_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("video")
    config = TimeSformerConfig(**{**TINY, "num_frames": 3})
    vitral.weights.save(path, TimeSformer(config), Preprocess(image_size=(48, 80)))
    return str(path)


# The others are too large to build here: test_recipes_pretraining.py.
HERE = (
    "small.scratch",
    "small.finetune",
    "vit.finetune",
    "bit.hyperrule",
    "elpv.finetune",
    "clips.scratch",
    "clips.finetune",
)


@pytest.mark.parametrize("name", HERE)
def test_every_recipe_builds_a_run(name, folder, weights, clips, video_weights):
    if name.startswith("clips."):
        folder, weights = clips, video_weights
    if name.endswith(".scratch"):
        with pytest.raises(ConfigError, match="takes no weights"):
            vitral.recipes.get_recipe(name)(folder, weights)
        weights = ""
    config = vitral.recipes.get_recipe(name)(folder, weights)
    assert isinstance(config, TrainConfig)
    assert config.recipe == name
    assert config.data == folder
    assert config.expected
    dataset = open_data(config, run_input_kind(config))
    prepared = prepare_model(config, dataset.classes)
    assert prepared.model.config.num_classes == len(dataset.classes) > 1
    assert prepared.preprocess.image_size == prepared.model.config.image_hw
    objective = prepare_objective(config, prepared, dataset.classes)
    assert build_optimizer(config.optim, prepared.model, objective).param_groups
    images = len(dataset.select("train"))
    steps = config.loop.steps or steps_for(images, config.epochs, config.batch_size)
    if name != "elpv.finetune":  # made for 2,624 images
        assert lr_at(steps - 1, steps, config.optim.lr, config.schedule) >= 0


@pytest.mark.parametrize("name", vitral.recipes.RECIPES)
def test_every_recipe_says_what_it_costs(name):
    text = inspect.getdoc(vitral.recipes.RECIPES[name])
    assert re.search(r"^Command: `(vitral train|python benchmarks/)", text, re.M)
    assert re.search(r"^Cost: \S", text, re.M)
    assert re.search(r"^Expect: \S", text, re.M)
    module = inspect.getmodule(vitral.recipes.RECIPES[name])
    assert re.search(r"\d{4}\.\d{5}", f"{module.__doc__} {text}") or "small" in name


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match=r"`vit\.finetun`.*nearest .* vit\.finetune"):
        vitral.recipes.get_recipe("vit.finetun")


def test_table_4_is_the_paper():
    rows = {name: (row.steps, row.lr_grid) for name, row in TABLE_4.items()}
    assert rows == PAPER


def test_finetune_is_table_4(folder, weights):
    config = vitral.recipes.vit.finetune(folder, weights)
    assert config.optim.optimizer == "sgd"
    assert config.optim.momentum == 0.9
    assert config.optim.weight_decay == 0
    assert config.optim.clip_norm == 1
    assert config.optim.lr in PAPER["oxford_iiit_pet"][1]
    assert config.batch_size == 512
    assert config.image_size == 384
    assert config.loop.steps == 500
    assert 0 < config.schedule.warmup < 500
    assert config.val == 0.1


@pytest.mark.parametrize(
    ("data", "images", "row"),
    [
        ("cifar10", 60_000, "cifar10"),
        ("imagenet", 1_331_167, "imagenet"),
        ("mine", 19_999, "oxford_iiit_pet"),
        ("mine", 20_000, "cifar100"),
        ("mine", 500_000, "imagenet"),
    ],
)
def test_the_row_of_a_data_set(data, images, row):
    assert row_for(data, images) == TABLE_4[row]


def test_choose_without_weights_trains_from_zero(folder):
    choice = vitral.recipes.choose_recipe(folder, "")
    assert choice.name == "small.scratch"
    assert choice.reason.startswith("42 images of 3 classes and no weights")


def test_choose_with_weights_fine_tunes(folder, weights, monkeypatch):
    choice = vitral.recipes.choose_recipe(folder, weights)
    assert choice.name == "small.finetune"
    assert "few enough" in choice.reason
    monkeypatch.setattr(vitral.recipes.small, "FINETUNE_UP_TO", 42)
    choice = vitral.recipes.choose_recipe(folder, weights)
    assert choice.name == "vit.finetune"
    assert "enough for the paper's own" in choice.reason


@pytest.mark.parametrize(
    ("height", "width", "patch", "size"),
    [
        (8, 8, 4, (16, 16)),
        (16, 12, 4, (32, 24)),
        (28, 40, 4, (28, 40)),
        (40, 56, 8, (40, 56)),
        (300, 600, 8, (48, 96)),
        (4, 900, 8, (8, 96)),
    ],
)
def test_scratch_keeps_the_shape_of_the_images(tmp_path, height, width, patch, size):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            image = photo(0, number, height, width).convert("L")
            image.save(tmp_path / name / f"{number}.png")
    config = vitral.recipes.small.scratch(str(tmp_path))
    assert config.model == f"vitc_ti{patch}"
    assert config.image_size == size
    assert config.augment.flip == 0  # grey: perhaps writing


def test_several_labels_get_the_sigmoid_loss(tmp_path, weights):
    rows = ["path,label"]
    for number in range(12):
        photo(number, number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{('a', 'a;b', 'b')[number % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    for name in ("small.scratch", "small.finetune", "vit.finetune"):
        from_zero = name == "small.scratch"
        config = vitral.recipes.get_recipe(name)(
            str(tmp_path), "" if from_zero else weights
        )
        assert isinstance(config.objective, SupervisedConfig)
        assert config.objective.loss == "sigmoid", name


def test_no_image_can_be_decoded(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    with pytest.raises(DataError, match=r"None of the images .* can be decoded"):
        vitral.recipes.summarize_dataset(str(tmp_path))
