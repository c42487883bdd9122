"""Factors of classes: by position, by name, and from their sizes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

import vitral as vt
from photos import photo
from vitral import config_io
from vitral.cli import main
from vitral.data import Dataset, Example, FileReader
from vitral.errors import ConfigError
from vitral.tasks.classification.class_weights import resolve_class_weights
from vitral.tasks.classification.supervised import Supervised, SupervisedConfig
from vitral.workflows.runtime import Runtime


def dataset(labels, names=("cat", "dog", "salt=pepper"), targets=None) -> Dataset:
    targets = targets or [None] * len(labels)
    examples = [
        Example(id=str(i), label=label, target=target, split="train")
        for i, (label, target) in enumerate(zip(labels, targets, strict=True))
    ]
    examples.append(Example(id="other", label=(0,), split="val"))
    return Dataset(
        name="made",
        root=Path("made"),
        classes=names,
        examples=tuple(examples),
        reader=FileReader(root=Path("made")),
    )


def test_auto_is_scikit_learns_balanced():
    y = np.array([0] * 7 + [1] * 2 + [2] * 1)
    expected = compute_class_weight("balanced", classes=np.unique(y), y=y)
    found = resolve_class_weights(("auto",), dataset([(int(i),) for i in y]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_auto_counts_several_labels_each_and_shares():
    # Labels: 0 three times, 1 once: 4 / (3 * 3), 4 / 3; the third is in no image.
    found = resolve_class_weights(("auto",), dataset([(0,), (0, 1), (0,), ()]))
    assert found == pytest.approx((4 / 9, 4 / 3, 1.0))
    shares = [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0), None]
    soft = dataset([(0, 1), (0,), (2,)], targets=shares)
    found = resolve_class_weights(("auto",), soft)
    assert found == pytest.approx((3 / 4.5, 3 / 1.5, 3 / 3))


def test_by_name():
    data = dataset([(0,), (1,), (2,)])
    assert resolve_class_weights(("dog=2.5",), data) == (1.0, 2.5, 1.0)
    # The last = is the one before the number.
    assert resolve_class_weights(("salt=pepper=3", "cat=.5"), data) == (0.5, 1.0, 3.0)
    assert resolve_class_weights((1.0, 2.0, 3.0), data) == (1.0, 2.0, 3.0)
    with pytest.raises(ConfigError, match=r"class 'dgo', which .* Did you mean dog"):
        resolve_class_weights(("dgo=2",), data)
    with pytest.raises(ConfigError, match="names 'dog' twice"):
        resolve_class_weights(("dog=2", "dog=3"), data)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (("auto", 1.0), "NAME=NUMBER for some, or auto: got auto 1.0"),
        (("auto", "dog=2"), "or auto: got 'auto'"),
        (("balanced",), "or auto: got 'balanced'"),
        (("dog=two",), "or auto: got 'dog=two'"),
        (("=2",), "or auto: got '=2'"),
        (("dog=-2",), "positive finite numbers: dog has -2.0"),
        (("dog=nan",), "positive finite numbers: dog has nan"),
        ((1.0, 0.0), "positive finite numbers: class 1 has 0.0"),
    ],
)
def test_what_is_refused(weights, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SupervisedConfig(class_weights=weights)


def test_the_loss_needs_numbers():
    config = SupervisedConfig(class_weights=("auto",))
    with pytest.raises(ConfigError, match="by name and auto need the classes"):
        Supervised(nn.Linear(2, 2), config)
    stored = json.loads(json.dumps(config_io.to_dict(config)))
    stored.pop("name")
    assert config_io.from_dict(SupervisedConfig, stored, "it") == config
    numbers = {"class_weights": [1, 2.5]}
    read = config_io.from_dict(SupervisedConfig, numbers, "it")
    assert read.class_weights == (1.0, 2.5)
    with pytest.raises(ConfigError, match="expected a number"):
        config_io.from_dict(SupervisedConfig, {"class_weights": [True]}, "it")


def test_a_run_keeps_the_numbers(tmp_path, caplog):
    for name, count in (("cat", 12), ("dog", 4)):
        for number in range(count):
            for split in ("train", "val"):
                file = tmp_path / "data" / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                photo(number, number + count).save(file)
    caplog.set_level("INFO", "vitral")
    config = vt.TrainConfig(
        data=str(tmp_path / "data"),
        model="vit_mu16",
        image_size=32,
        test=0.0,
        loop=replace(vt.TrainConfig(data="d", model="m").loop, steps=1),
        objective=SupervisedConfig(class_weights=("auto",)),
    )
    runtime = Runtime(device="cpu")
    run = vt.train(config, tmp_path / "auto", runtime=runtime)
    weights = (16 / 24, 16 / 8)
    assert run.config.objective.class_weights == ("auto",)
    assert "note: class weights: cat 0.6667, dog 2" in caplog.messages
    assert main(["train", config.data, "--class-weights", "auto", "--dry-run"]) == 0
    by_hand = replace(config, objective=SupervisedConfig(class_weights=weights))
    other = vt.train(by_hand, tmp_path / "hand", runtime=runtime)
    for ours, theirs in zip(
        run.model.parameters(), other.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    again = vt.train(config, tmp_path / "auto", runtime=runtime, resume=True)
    assert again.config == run.config
