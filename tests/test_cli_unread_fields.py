"""Flags of a config's fields that the other settings leave without effect."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

import vitral as vt
from helpers import TINY, randomise
from vitral.cli import main
from vitral.cli.error_text import name_flags
from vitral.cli.train_config import apply_flags
from vitral.data import AugmentConfig, Preprocess
from vitral.errors import ConfigError
from vitral.models import ViT, ViTConfig
from vitral.tasks import get_objective, objectives
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

CASES = (
    ("supervised", "--momentum 0.8", "`--optimizer sgd`"),
    ("supervised", "--optimizer sgd --betas 0.8 0.99", "`--optimizer adamw`"),
    ("supervised", "--optimizer adafactor --momentum 0.8", "`--optimizer sgd`"),
    ("supervised", "--timescale 5", "`--schedule rsqrt`"),
    ("supervised", "--schedule constant --end-lr 1e-5", "`--schedule cosine`"),
    ("supervised", "--schedule rsqrt --end-lr 1e-5", "`--schedule cosine`"),
    ("supervised", "--ema-warmup", "`--ema 0.9999`"),
    ("supervised", "--patience 3", "`--eval-every 100`"),
    ("supervised", "--crop-area 0.5 1", "`--crop inception`"),
    ("supervised", "--dihedral --flip 0.5", "`--no-dihedral`"),
    ("supervised", "--rand-augment-magnitude 5", "`--rand-augment 2`"),
    ("supervised", "--policy rand_original", "`--rand-augment 2`"),
    ("supervised", "--channel-init zero", "`--weights FILE`"),
    ("mae", "--eval-views flip", "a task that answers"),
    ("masked_patch", "--eval-views flip", "a task that answers"),
    ("distill", "--temperature 3", "`--kind soft`"),
    ("distill", "--share 1 --smoothing 0.1", "a `--share` below 1"),
    ("regression", "--huber-delta 2", "`--loss huber`"),
)
"""Objective, flags of which the last does nothing, and the reader that is named."""
OFF = (
    "--momentum 0",
    "--schedule constant --end-lr 0",
    "--no-ema-warmup",
    "--dihedral --flip 0",
    "--patience 0",
    "--policy rand",
)


def config_of(objective: str) -> TrainConfig:
    return TrainConfig(
        data="DATA", model="vit_ti16", objective=get_objective(objective)
    )


@pytest.mark.parametrize(("objective", "line", "reader"), CASES)
def test_a_flag_that_does_nothing_is_refused(objective, line, reader):
    with pytest.raises(ConfigError) as caught:
        apply_flags(config_of(objective), line.split())
    flag = [word for word in line.split() if word.startswith("--")][-1]
    said = name_flags(str(caught.value), "train")
    assert said.startswith(f"`{flag}` goes with {reader}"), said
    assert "does nothing" in said
    words = reader.split("`")[1].split() if reader.startswith("`") else []
    if words and words[0] != "--weights":
        apply_flags(config_of(objective), [*line.split(), *words])


@pytest.mark.parametrize("line", OFF)
def test_a_value_that_turns_its_field_off_may_stand(line):
    apply_flags(config_of("supervised"), line.split())


def test_every_field_that_may_be_unread_is_here():
    """A config that names another field needs a case above."""
    classes = [OptimConfig(), ScheduleConfig(), LoopConfig(), AugmentConfig()]
    configs: list[Any] = [*classes, *(config_of(name) for name in objectives())]
    configs += [objective() for objective in objectives().values()]
    variants = [
        *configs,
        OptimConfig(optimizer="sgd"),
        ScheduleConfig(schedule="rsqrt"),
        AugmentConfig(dihedral=True, policy="rand_original"),
        replace(config_of("supervised"), loop=LoopConfig(steps=3)),
        replace(get_objective("distill"), share=1.0),
    ]
    named = {name for config in variants for name in config.unread_fields()}
    for config in variants:
        fields = {field.name for field in dataclasses.fields(config)}
        assert set(config.unread_fields()) <= fields
    tested = {
        word.removeprefix("--").replace("-", "_")
        for _, line, _ in CASES
        for word in line.split()
    }
    tested.add("epochs")  # a recipe's updates, below
    assert named <= tested
    assert len(named) >= 14


def test_what_a_flag_would_do_is_the_same_without_it():
    """The refused flags indeed change nothing: of the optimizer and the schedule."""
    from vitral.training.optim import create_optimizer
    from vitral.training.schedule import lr_at

    def weights(**settings: Any) -> torch.Tensor:
        parameter = torch.nn.Parameter(torch.ones(3))
        config = OptimConfig(**settings)
        optimizer = create_optimizer([{"params": [parameter]}], config)
        for _ in range(3):
            parameter.grad = torch.tensor([1.0, 2.0, 3.0])
            optimizer.step()
        return parameter.detach()

    assert torch.equal(weights(momentum=0.1), weights())
    sgd = weights(optimizer="sgd")
    assert torch.equal(weights(optimizer="sgd", betas=(0.1, 0.2)), sgd)
    assert not torch.equal(weights(optimizer="sgd", momentum=0.1), sgd)
    rates = [
        [lr_at(step, 10, 1.0, ScheduleConfig(schedule=name, **more)) for step in (3, 9)]
        for name, more in (
            ("constant", {}),
            ("constant", {"end_lr": 0.5}),
            ("cosine", {}),
            ("cosine", {"timescale": 2}),
        )
    ]
    assert rates[0] == rates[1]
    assert rates[2] == rates[3]


def test_a_recipe_of_a_number_of_updates_takes_no_epochs(capsys):
    """They were ignored, and the run took as many updates as the recipe says."""
    words = ["train", "digits", "--recipe", "scaling.giant14", "--epochs", "1"]
    assert main([*words, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "`--epochs` goes with `--steps 0` and does nothing" in said
    both = apply_flags(config_of("supervised"), ["--epochs", "1", "--steps", "9"])
    assert (both.epochs, both.loop.steps) == (1.0, 9)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_an_exported_model_computes_on_the_cpu(to, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "model"
    model = ViT(ViTConfig(**TINY))
    randomise(model)
    classes = tuple("abcdefg")
    vt.save(folder, model, Preprocess(image_size=(48, 80)), classes=classes)
    file = tmp_path / {"onnx": "model.onnx", "openvino": "exported"}[to]
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / name / "0.png")
    photos = str(tmp_path / "photos")
    getattr(vt.export, to)(folder, file, vt.export.ExportOptions(data=photos))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for verb in ("predict", "eval"):
        assert main([verb, str(file), photos, "--device", "cuda"]) == 2
        said = capsys.readouterr().err
        assert "`--device cuda` does nothing: an exported model computes on" in said
    # Where the machine has a GPU, auto is still the CPU.
    assert main(["predict", str(file), photos]) == 0
