"""Runs that learn without labels or from a teacher: what they need, leave, refuse."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitral as vt
import vitral.weights
from photos import (
    CLASSES,
    contents,
    photo,
    prepare_model,
    prepare_objective,
    tiny_config,
)
from vitral import config_io
from vitral.data import MixConfig, Preprocess, read_unlabelled
from vitral.errors import ConfigError, DataError, InterruptedRun, WeightsError
from vitral.models import ViT, ViTConfig
from vitral.tasks.classification import DistillConfig, SupervisedConfig
from vitral.tasks.classification.teacher import Teacher
from vitral.tasks.representation import MAEConfig, MaskedPatch, MaskedPatchConfig
from vitral.tasks.representation.masked_patch import color_class, expand_colors
from vitral.tasks.representation.monitor import FeatureMonitor
from vitral.training.log import TIMING_FIELDS
from vitral.workflows import TrainConfig
from vitral.workflows.dataset import open_data
from vitral.workflows.train.build import build_optimizer

pytestmark = pytest.mark.usefixtures("no_report")

SMALL = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5}


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> Path:
    """Images of nobody knows what, some of them in folders."""
    root = tmp_path_factory.mktemp("flat")
    (root / "deep" / "deeper").mkdir(parents=True)
    for number in range(18):
        folder = (root, root / "deep", root / "deep" / "deeper")[number % 3]
        photo(number % 3, number).save(folder / f"{number}.png")
    (root / "notes.txt").write_text("nothing")
    return root


def without_labels(data: Path | str, objective=None, **changes) -> TrainConfig:
    loop = {"monitor": "loss", "ema": 0.0, "ema_warmup": False, "eval_every": 3}
    loop |= changes.pop("loop", {})
    fields = {"epochs": 4.0, "objective": objective or MAEConfig(**SMALL), **changes}
    return tiny_config(data, loop=loop, **fields)


def logged(run: vt.Run, event: str) -> list[dict]:
    rows = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["event"] == event]


@pytest.fixture(scope="module")
def encoder(photos, tmp_path_factory) -> vt.Run:
    out = tmp_path_factory.mktemp("mae") / "run"
    return vt.train(without_labels(photos), out)


def test_a_masked_autoencoder_leaves_an_encoder(encoder):
    assert encoder.classes == ()
    assert encoder.model.config.num_classes == 0
    assert encoder.extra["objective"] == "mae"
    names = load_file(encoder.path / "model" / "model.safetensors")
    assert not [name for name in names if name.startswith(("decoder", "head"))]
    found = json.loads((encoder.path / "representation.json").read_text())
    assert found["objective"] == "mae"
    assert {split: part["n"] for split, part in found["splits"].items()} == {
        "val": 24,
        "test": 24,
    }
    assert found["splits"]["test"]["knn"]["settings"]["images"] == 24
    evaluated = logged(encoder, "eval")
    assert {"loss", "knn_accuracy"} <= evaluated[0].keys()
    assert evaluated[-1]["loss"] < evaluated[0]["loss"]
    final = {row["split"]: row for row in logged(encoder, "final")}
    assert final["test"]["loss"] == found["splits"]["test"]["loss"]
    # The loss of the last step's encoder on the same patches each time.
    assert final["val"]["loss"] == pytest.approx(evaluated[-1]["loss"], abs=1e-12)


def test_the_reconstructions_are_a_picture(encoder):
    with Image.open(encoder.path / "reconstructions.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


def test_the_report_and_the_card_of_a_run_without_labels(encoder):
    page = (encoder.path / "report.html").read_text()
    assert "This model was trained without labels (mae)" in page
    assert "Reconstructions" in page
    assert "data:image/png;base64," in page
    assert "Worst errors" not in page
    assert ">Errors</a>" not in page
    card = (encoder.path / "model" / "README.md").read_text()
    assert "trained without labels" in card


def test_it_answers_no_classes_and_says_so(encoder, photos):
    with pytest.raises(ConfigError, match="has no head and answers no classes"):
        encoder.predict([next(photos.rglob("*.png"))])
    from vitral.workflows.evaluate.evaluate import evaluate

    with pytest.raises(ConfigError, match="fine-tune it with `vitral train DATA"):
        evaluate(encoder, device="cpu")


def test_fine_tuning_begins_with_its_weights(encoder, photos, tmp_path):
    config = tiny_config(
        photos, model="", model_changes={}, weights=str(encoder.path), epochs=1.0
    )
    prepared = prepare_model(config, CLASSES)
    before = load_file(encoder.path / "model" / "model.safetensors")
    for name, tensor in before.items():
        assert torch.equal(prepared.model.state_dict()[name], tensor), name
    run = vt.train(config, tmp_path / "tuned")
    assert run.classes == CLASSES


@pytest.mark.parametrize("target", ["mean_colour", "small_patch", "pixels"])
def test_masked_patch_prediction_runs(photos, tmp_path, target):
    config = without_labels(photos, MaskedPatchConfig(target=target), epochs=2.0)
    run = vt.train(config, tmp_path / "run")
    found = json.loads((run.path / "representation.json").read_text())
    assert found["objective"] == "masked_patch"
    assert 0 < found["splits"]["test"]["loss"] < 6.3
    assert (run.path / "reconstructions.png").is_file()
    names = load_file(run.path / "model" / "model.safetensors")
    assert "mask_token" not in names


def test_images_of_nobody_knows_what(flat, tmp_path):
    before = contents(flat)
    run = vt.train(without_labels(flat, batch_size=6), tmp_path / "run")
    found = json.loads((run.path / "representation.json").read_text())
    assert all(part["knn"] is None for part in found["splits"].values())
    assert "knn_accuracy" not in logged(run, "eval")[0]
    assert contents(flat) == before
    data = json.loads((run.path / "data.json").read_text())
    assert data["classes"] == ["images"]
    assert sum(data["counts"]["train"].values()) > 6


def test_a_folder_without_labels_is_listed(flat, photos, tmp_path):
    listed = read_unlabelled(flat)
    assert len(listed.examples) == 18
    assert {example.id for example in listed.examples} >= {"0.png", "deep/1.png"}
    assert [file.path for file in listed.ignored] == ["notes.txt"]
    assert {example.split for example in read_unlabelled(photos).examples} == {
        "train",
        "val",
        "test",
    }
    with pytest.raises(DataError, match="holds no image, at any depth"):
        read_unlabelled(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        read_unlabelled(flat / "0.png")
    assert vt.data.open(photos, labels="optional").classes == CLASSES


def test_a_classifier_still_needs_classes(flat):
    with pytest.raises(DataError, match="one class only"):
        open_data(tiny_config(flat))


def test_stopped_and_resumed_without_labels(photos, encoder, tmp_path, monkeypatch):
    """The decoder and the masks come back bit for bit."""
    train = importlib.import_module("vitral.workflows.train.train")

    whole = train.fit

    def cut(*args, on_best, evaluate, **changes):
        def stops(model):
            if stops.calls == 1:
                raise InterruptedRun("stopped here", 143)
            stops.calls += 1
            return evaluate(model)

        stops.calls = 0
        return whole(*args, on_best=on_best, evaluate=stops, **changes)

    config = without_labels(photos)
    monkeypatch.setattr(train, "fit", cut)
    with pytest.raises(InterruptedRun):
        vt.train(config, tmp_path / "cut")
    monkeypatch.setattr(train, "fit", whole)
    resumed = vt.train(config, tmp_path / "cut", resume=True)
    for group in ("model", "objective", "optimizer"):
        ends = [
            sorted(run.path.glob(f"checkpoints/*/{group}.safetensors"))[-1]
            for run in (encoder, resumed)
        ]
        one, other = map(load_file, ends)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), group

    def untimed(run):
        return [
            {k: v for k, v in row.items() if k not in TIMING_FIELDS}
            for event in ("train", "eval", "final")
            for row in logged(run, event)
        ]

    assert untimed(encoder) == untimed(resumed)


# The optimizer


def test_what_is_the_objectives_own_counts_as_head(photos):
    config = without_labels(photos)
    config = replace(
        config, optim=replace(config.optim, layer_decay=0.5, head_lr_scale=3.0)
    )
    prepared = prepare_model(config, CLASSES)
    objective = prepare_objective(config, prepared, CLASSES)
    groups = build_optimizer(config.optim, prepared.model, objective).param_groups
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    named = dict(objective.named_parameters())
    assert scale[id(named["decoder.embed.weight"])] == 3.0
    assert scale[id(named["model.blocks.1.mlp.fc1.weight"])] == 0.5
    assert scale[id(named["model.blocks.0.mlp.fc1.weight"])] == 0.25
    # Fixed sines and cosines are not trained.
    assert id(named["model.pos_embed"]) not in scale


# The teacher


class Loud(torch.nn.Module):
    """Answers with the mean of each colour of what it sees."""

    def forward(self, image):
        return image.mean(dim=(2, 3))


def test_a_teacher_sees_the_image_in_its_own_way():
    student = Preprocess(image_size=(32, 48), mean=(0.5,) * 3, std=(0.5,) * 3)
    other = Preprocess(image_size=(16, 24), mean=(0.1, 0.2, 0.3), std=(0.2, 0.4, 0.5))
    colour = torch.tensor([0.9, 0.1, 0.6])
    image = ((colour - 0.5) / 0.5)[None, :, None, None].expand(2, 3, 32, 48)
    teacher = Teacher(Loud(), student, other)
    wanted = (colour - torch.tensor(other.mean)) / torch.tensor(other.std)
    torch.testing.assert_close(teacher(image), wanted.expand(2, 3))
    assert Teacher(Loud(), student, student).translate(image) is image
    assert teacher.translate(image).shape == (
        2,
        3,
        16,
        24,
    )


def test_distillation_runs_from_a_run(run, photos, tmp_path):
    config = tiny_config(
        photos,
        model="deit_ti16",
        model_changes={"embed_dim": 24, "depth": 2, "num_heads": 3},
        objective=DistillConfig(teacher=str(run), kind="soft", share=0.9),
        epochs=3.0,
    )
    student = vt.train(config, tmp_path / "student")
    rows = logged(student, "train")
    assert {"label_loss", "teacher_loss", "agreement"} <= rows[0].keys()
    assert rows[-1]["teacher_loss"] < rows[0]["teacher_loss"]
    assert student.metrics["test"]["kind"] == "classification"
    read = config_io.from_dict(
        TrainConfig, json.loads((student.path / "config.json").read_text()), "config"
    )
    assert read == replace(config, task="classification")
    with pytest.raises(ConfigError, match="knows the classes blue stripes, green, red"):
        prepare_objective(config, prepare_model(config, CLASSES), CLASSES[::-1])


@pytest.mark.parametrize(
    ("teacher", "error", "sentence"),
    [
        ("", ConfigError, "Distillation needs a teacher: give a run"),
        ("nowhere", WeightsError, "The teacher nowhere does not exist"),
    ],
    ids=["none", "missing"],
)
def test_a_teacher_that_is_not_there(photos, tmp_path, teacher, error, sentence):
    config = tiny_config(photos, objective=DistillConfig(teacher=teacher))
    with pytest.raises(error, match=sentence):
        vt.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_teacher_without_a_head(photos, encoder, tmp_path):
    config = tiny_config(photos, objective=DistillConfig(teacher=str(encoder.path)))
    with pytest.raises(ConfigError, match="has 0 outputs and the data 3 classes"):
        vt.train(config, tmp_path / "run")


# What does not fit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mix": MixConfig(mixup=0.2)}, "Mixup and CutMix blend classes"),
        ({"loop": {"monitor": "macro_f1"}}, "set `monitor=loss`"),
        (
            {"cache": True, "freeze": 1, "augment": vt.data.AugmentConfig(views=1)},
            "`mae` needs the images themselves",
        ),
        ({"model": "tnt_s16"}, "plain Vision Transformer: got TNT"),
    ],
    ids=["mixup", "monitor", "cache", "model"],
)
def test_settings_that_do_not_fit(photos, tmp_path, changes, sentence):
    fields = {"model_changes": {}, "image_size": 0} if "model" in changes else {}
    config = without_labels(photos, **fields, **changes)
    with pytest.raises(ConfigError, match=sentence):
        vt.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


# Settings as plain data


@pytest.mark.parametrize(
    "objective",
    [
        SupervisedConfig(loss="sigmoid", smoothing=0.1),
        DistillConfig(teacher="runs/a", temperature=3.0),
        MAEConfig(mask_ratio=0.6),
        MaskedPatchConfig(target="pixels"),
    ],
    ids=["supervised", "distill", "mae", "masked_patch"],
)
def test_objectives_survive_json(objective):
    config = TrainConfig(data="photos", model="vit_s16", objective=objective)
    plain = json.loads(json.dumps(config_io.to_dict(config)))
    assert plain["objective"]["name"] == objective.NAME
    assert config_io.from_dict(TrainConfig, plain, "config") == config


def test_objectives_that_are_not_there():
    plain = config_io.to_dict(TrainConfig(data="photos", model="vit_s16"))
    del plain["objective"]["name"]  # as runs wrote it while there was only one
    assert config_io.from_dict(TrainConfig, plain, "config").objective == (
        SupervisedConfig()
    )
    plain["objective"] = {"name": "os.system"}
    with pytest.raises(ConfigError, match="must be one of distill, mae, masked_patch"):
        config_io.from_dict(TrainConfig, plain, "config")
    plain["objective"] = {"name": "mae", "loss": "softmax"}
    with pytest.raises(ConfigError, match="extra fields found"):
        config_io.from_dict(TrainConfig, plain, "config")
    plain["objective"] = "mae"
    with pytest.raises(ConfigError, match="expected fields, got 'mae'"):
        config_io.from_dict(TrainConfig, plain, "config")


# Colours that are drawn


def test_drawn_colours_fall_into_their_own_class():
    classes = torch.tensor([[[0], [511], [448], [7]], [[83], [9], [100], [300]]])
    patches = expand_colors(classes, (3, 5))
    assert patches.shape == (2, 4, 3 * 5 * 3)
    colours = patches.unflatten(2, (15, 3))
    assert torch.equal(color_class(colours), classes.expand(2, 4, 15))


def test_sixteen_parts_are_drawn_where_they_lie():
    cells = torch.arange(16)[None, None] * 30
    patch = expand_colors(cells, (4, 8)).unflatten(2, (4, 8, 3))[0, 0]
    found = color_class(patch)
    assert torch.equal(found[:, ::2], cells[0, 0].view(4, 4))
    assert torch.equal(found[:, 1::2], cells[0, 0].view(4, 4))


@pytest.mark.parametrize("target", ["mean_colour", "small_patch", "pixels"])
def test_a_reconstruction_leaves_what_it_saw(target):
    from vitral.tasks.representation.masked_patch import draw_corruption

    settings = {"depth": 2, "embed_dim": 24, "num_heads": 3, "mlp_dim": 40}
    model = ViT(ViTConfig(image_size=(32, 48), num_classes=0, **settings))
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
    objective = MaskedPatch(model, MaskedPatchConfig(target=target), mean, std)
    torch.nn.init.normal_(objective.head.weight, std=0.5)
    image = torch.randn(2, 3, 32, 48)
    corruption = draw_corruption(objective.config, ("a", "b"), 6, 1)
    found = objective.reconstruct(image, corruption)
    assert found.hidden.shape == (2, 2, 3)
    assert found.hidden.sum() == 6
    wide = found.hidden.repeat_interleave(16, 1).repeat_interleave(16, 2)
    shown = (~wide)[:, None].expand_as(image)
    torch.testing.assert_close(found.image[shown], image[shown])
    assert not torch.isclose(found.image, image)[wide[:, None].expand_as(image)].all()


def test_the_monitor_asks_neighbours_of_train(photos):
    config = without_labels(photos)
    dataset = open_data(config)
    prepared = prepare_model(config, dataset.classes)
    objective = prepare_objective(config, prepared, dataset.classes)
    monitor = FeatureMonitor(
        dataset=dataset,
        preprocess=prepared.preprocess,
        batch_size=7,
        device=torch.device("cpu"),
        bf16=False,
    )
    found = monitor.measure(objective, prepared.model, "val")
    assert found.n == 24
    assert found.knn is not None
    x, y = vt.features(prepared.model, prepared.preprocess, dataset, split="train")
    asked = vt.features(prepared.model, prepared.preprocess, dataset, split="val")
    wanted = vt.knn(x, y, asked.x, asked.y, k=20)
    assert found.knn.predicted == wanted.predicted
    again = monitor.measure(objective, prepared.model, "val")
    assert again.loss == found.loss  # the same patches are hidden
