"""The simplest ways beside a result: right numbers, said where a person looks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

import vitral as vt
from helpers import captured_log, tiny_vit
from photos import photo, tiny_config
from test_regression_run import CPU, config_for, make_squares
from vitral import evaluation
from vitral.cli.output import summary_lines
from vitral.data import Preprocess, split_loader
from vitral.errors import ConfigError
from vitral.evaluation.probes import fit_head, knn, svm
from vitral.report.baselines import BASELINES_FILE, Baseline, Baselines
from vitral.report.card import model_card
from vitral.tasks.classification import SupervisedConfig
from vitral.tasks.features import extract_features
from vitral.tasks.mean import MeanResult
from vitral.training import LoopConfig, ScheduleConfig
from vitral.workflows import TrainConfig
from vitral.workflows.dataset import open_split_data
from vitral.workflows.train.baselines import _in_turn

pytestmark = pytest.mark.usefixtures("no_report", "one_thread")


def rows_of(folder):
    return {
        row["name"]: row
        for row in json.loads((folder / BASELINES_FILE).read_text())["rows"]
    }


def test_support_vectors_are_scikit_learns():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(90, 5)), generator.integers(0, 3, 90) + 2
    probe = svm(x[:60], y[:60], x[60:], y[60:])
    expected = SVC(C=10).fit(x[:60], y[:60]).predict(x[60:])
    assert probe.predicted == tuple(expected)
    assert probe.accuracy == pytest.approx((expected == y[60:]).mean())


def pixels(run, split):
    """Pixels of a run's split at 21 x 32, flat, with the classes."""
    preprocess = replace(run.preprocess, image_size=(21, 32))
    dataset = open_split_data(run.config, run.path / "split.csv")
    batches = list(split_loader(dataset, split, preprocess, batch_size=7).epoch(0))
    x = torch.cat([batch.image for batch in batches]).flatten(1)
    return x, torch.cat([batch.target.label for batch in batches])


def test_from_zero_the_pixels_are_asked(photos, tmp_path):
    with captured_log("vitral.workflows.train") as lines:
        run = vt.train(tiny_config(photos, epochs=1.0), tmp_path / "run")
    sets = (*pixels(run, "train"), *pixels(run, "test"))
    rows = rows_of(run.path)
    assert list(rows) == ["5 neighbours of the pixels", "support vectors on the pixels"]
    neighbours, machine = rows.values()
    assert neighbours["value"] == knn(*sets, k=5).accuracy
    assert machine["value"] == svm(*sets).accuracy
    assert neighbours["train_images"] == len(sets[0])
    assert neighbours["n"] == len(sets[2])
    text = f"baselines on test: 5 neighbours of the pixels {neighbours['value']:.1%}"
    assert text.replace("%", " %") in "\n".join(lines)
    assert text.replace("%", " %") in "\n".join(summary_lines(run))
    assert "Baselines on test: 5 neighbours" in model_card(run.path).replace("\\", "")


def test_from_weights_their_features_are_asked(photos, tmp_path):
    source = tiny_vit(image_size=48, num_classes=0).float()
    vt.save(tmp_path / "weights", source, Preprocess(image_size=(48, 48)))
    config = TrainConfig(
        data=str(photos),
        weights=str(tmp_path / "weights"),
        batch_size=8,
        objective=SupervisedConfig(head="probe"),
        loop=LoopConfig(steps=3),
        schedule=ScheduleConfig(warmup=0),
    )
    run = vt.train(config, tmp_path / "run")
    model, *_ = vt.load(tmp_path / "weights")
    dataset = open_split_data(run.config, run.path / "split.csv")
    train, test = (
        extract_features(
            model, split_loader(dataset, split, run.preprocess, batch_size=8)
        )
        for split in ("train", "test")
    )
    fitted = fit_head(train.x.numpy(), train.y.numpy(), 3, seed=config.seed)
    answers = (test.x.numpy() @ fitted.weight.T + fitted.bias).argmax(1)
    rows = rows_of(run.path)
    head = rows["a linear head on the weights' features"]
    assert head["value"] == (answers == test.y.numpy()).mean()
    assert len(rows) == 2
    with captured_log("vitral.workflows.train") as lines:
        vt.train(config, tmp_path / "run", resume=True)
    assert not any("baselines" in line for line in lines)  # known already


def test_numbers_have_baselines_too(tmp_path):
    squares = make_squares(tmp_path / "squares", 120)
    run = vt.train(config_for(squares, steps=20), tmp_path / "run", runtime=CPU)
    rows = rows_of(run.path)
    assert list(rows) == ["5 neighbours of the pixels", "a linear head on the pixels"]
    assert all(not row["is_share"] and row["field"] == "r2" for row in rows.values())
    assert rows["a linear head on the pixels"]["value"] > 0.5  # an area is a sum


def test_several_labels_have_none_and_say_so(tmp_path):
    rows = ["path,label"]
    for number in range(24):
        photo(number, number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{('a', 'a;b', 'b')[number % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    config = tiny_config(tmp_path / "labels.csv", epochs=1.0)
    loss = replace(config.objective, loss="sigmoid")
    with captured_log("vitral.workflows.train") as lines:
        run = vt.train(replace(config, objective=loss), tmp_path / "run")
    assert any("no baselines: The images of" in line for line in lines)
    assert not (run.path / BASELINES_FILE).exists()


class Errors(MeanResult):
    KIND = "errors of a test"


def baseline(value, **changes):
    fields = {"name": "neighbours", "field": "value", "n": 9, "train_images": 30}
    return Baseline(**{**fields, "value": value, **changes})


@pytest.mark.parametrize("higher", [True, False])
def test_the_one_that_is_ahead_is_named(higher):
    result = Errors(
        n=9,
        n_unreadable=0,
        measure="error",
        value=0.5,
        value_interval=evaluation.Interval(0.4, 0.6),
        higher_is_better=higher,
    )
    changes = {"is_share": False, "higher_is_better": higher}
    rows = (baseline(0.4, **changes), baseline(0.75, name="a line", **changes))
    found = Baselines(split="test", rows=rows).ahead({"test": result})
    best = "a line 0.750" if higher else "neighbours 0.400"
    assert found == f"a baseline is ahead on test: {best}, the model 0.500"
    equal = (baseline(0.5, **changes), baseline(0.9, field="other", **changes))
    assert Baselines(split="test", rows=equal).ahead({"test": result}) == ""
    assert Baselines(split="val", rows=rows).ahead({"test": result}) == ""


def test_a_sample_is_said(tmp_path):
    rows = (baseline(0.25), baseline(0.5, name="svm", is_sample=True))
    whole = Baselines(split="val", rows=rows)
    expected = "baselines on val: neighbours 25.0 %, svm 50.0 % (from 30 images)"
    assert str(whole) == expected
    whole.write(tmp_path)
    assert Baselines.read(tmp_path) == whole
    assert Baselines.read(tmp_path / "empty") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "lacks a field"),
        ('{"split": 3, "rows": []}', "`split` is 3, expected text"),
        ('{"split": "val", "rows": [{"value": "x"}]}', r"`rows\[0\].value` is 'x'"),
        (
            '{"split": "val", "rows": [{"other": 1}]}',
            "missing a required argument: 'name'|'other'",
        ),
    ],
)
def test_an_edited_file_is_refused(tmp_path, text, sentence):
    (tmp_path / BASELINES_FILE).write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        Baselines.read(tmp_path)


def test_a_sample_takes_classes_in_turn():
    keys = [0] * 50 + [1] * 5 + [2] * 3
    chosen = _in_turn(keys, 12, seed=0)
    assert chosen == sorted(set(chosen))
    assert [sum(keys[i] == k for i in chosen) for k in (0, 1, 2)] == [5, 4, 3]
    assert _in_turn(keys, 99, seed=0) == list(range(58))
    assert _in_turn(keys, 12, seed=1) != chosen
