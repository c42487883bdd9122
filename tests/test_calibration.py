"""The temperature of a run: fitted on val, applied to what else is measured."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vitral as vt
from vitral.cli import main
from vitral.cli.output import summary_lines
from vitral.errors import DataError
from vitral.tasks.classification import (
    Classification,
    ClassMetric,
    calibrate,
    classify,
    fit_temperature,
    softmax,
)
from vitral.workflows.evaluate.evaluate import evaluate
from vitral.workflows.inference import InferenceSpec, predict_outputs
from vitral.workflows.run import open_run


def stored(run: Path, split: str) -> dict[str, object]:
    return json.loads((run / "predictions" / f"{split}.json").read_text())


def test_training_fits_on_val_and_applies_to_test(run):
    val, test = stored(run, "val"), stored(run, "test")
    assert val["calibrated"]["fitted_on"] == test["calibrated"]["fitted_on"] == "val"
    assert val["calibrated"]["fitted_n"] == test["calibrated"]["fitted_n"] == 24
    found = val["calibrated"]["temperature"]
    assert test["calibrated"]["temperature"] == found
    assert val["calibrated"]["nll"] <= val["nll"]  # that is what was minimised
    assert Classification.from_dict(test).calibrated.temperature == found


@pytest.fixture
def fitted(run_copy):
    """A run whose val has found a temperature: 24 images find none."""
    table = run_copy / "predictions" / "val.json"
    val = stored(run_copy, "val")
    val["calibrated"]["temperature"] = 1.7
    table.write_text(json.dumps(val))
    config = run_copy / "model" / "config.json"
    about = json.loads(config.read_text())
    about["vitral"]["temperature"] = 1.7
    config.write_text(json.dumps(about))
    return run_copy


def test_the_temperature_travels_with_the_model(run, fitted, tmp_path):
    """The model folder alone has it; a run from before the key reads its val."""
    found = stored(run, "val")["calibrated"]["temperature"]
    config = run / "model" / "config.json"
    assert json.loads(config.read_text())["vitral"]["temperature"] == found
    alone = tmp_path / "alone"
    shutil.copytree(fitted / "model", alone)
    assert temperature(alone) == temperature(fitted) == 1.7
    config = fitted / "model" / "config.json"
    about = json.loads(config.read_text())
    del about["vitral"]["temperature"]
    config.write_text(json.dumps(about))
    assert temperature(fitted) == 1.7
    assert temperature(fitted / "model") == 1.0


def temperature(path: Path) -> float:
    return open_run(path).metadata.get("temperature", 1.0)


def test_answers_are_divided_by_the_temperature(fitted, photos):
    opened = open_run(fitted)
    image = next((photos / "test").rglob("*.png"))
    with torch.no_grad():
        logits = predict_outputs(
            opened.model,
            opened.preprocess(image)[None],
            InferenceSpec(views=opened.extra["eval_views"]),
        )[0].double()
    wanted = (logits / 1.7).softmax(0)
    (answer,) = opened.predict([image])
    assert list(answer.probabilities.values()) == pytest.approx(wanted, rel=1e-5)
    assert answer.confidence != pytest.approx(logits.softmax(0).max().item(), rel=1e-3)


def test_a_planted_temperature_is_found(run_copy):
    """All logits times 30: the same function but for its confidence."""
    before = stored(run_copy, "val")["calibrated"]
    opened = open_run(run_copy)
    with torch.no_grad():
        for parameter in opened.model.head.parameters():
            parameter.mul_(30)
    vt.save(
        run_copy / "model",
        opened.model,
        opened.preprocess,
        classes=opened.classes,
        extra=opened.extra,
    )
    hotter = open_run(run_copy)
    evaluate(hotter, split="val", device="cpu")
    val = stored(run_copy, "val")
    assert before["temperature"] == 1
    assert 1.5 < val["calibrated"]["temperature"] < 30
    assert val["calibrated"]["nll"] < val["nll"] - 1
    (line,) = Classification.from_dict(val).fitted_lines()
    assert line.endswith("24 images of val; they are few, so it is shrunk towards 1")
    evaluate(hotter, split="test", device="cpu")
    test = stored(run_copy, "test")["calibrated"]
    assert test["temperature"] == val["calibrated"]["temperature"]


def draw(generator, n, times=1.0):
    """Return logits whose softmax, with a temperature of `times`, draws the labels."""
    logits = 3.0 * generator.normal(size=(n, 5))
    sums = softmax(logits).cumsum(axis=1)
    labels = (sums < generator.uniform(size=(n, 1))).sum(axis=1)
    return times * logits, np.minimum(labels, 4)


@pytest.mark.parametrize("n", [5, 10, 20, 40, 100, 300])
def test_few_images_make_a_calibrated_model_no_worse(n):
    generator = np.random.default_rng(n)
    logits, labels = draw(generator, 4000)
    found = [fit_temperature(*draw(generator, n)) for _ in range(100)]
    measured = [
        calibrate(logits, labels, value, fitted_on="val", fitted_n=n)
        for value in (1.0, *found)
    ]
    assert np.mean([m.nll for m in measured]) < measured[0].nll + 2e-4
    assert max(m.ece for m in measured) < 0.05


def test_many_images_are_not_held_back():
    found = fit_temperature(*draw(np.random.default_rng(1), 3000, times=2.5))
    assert found == pytest.approx(2.5, rel=0.05)
    cold = fit_temperature(*draw(np.random.default_rng(1), 3000, times=0.5))
    assert cold == pytest.approx(0.5, rel=0.05)


def test_a_run_says_how_little_its_temperature_rests_on(run):
    sentence = (
        "emperature 1.00, fitted on 24 images of val; they do not show that "
        "confidences are too high or too low"
    )
    assert f"t{sentence}" in summary_lines(open_run(run))
    assert f"T{sentence}." in (run / "report.html").read_text()
    assert f"- T{sentence}." in (run / "model" / "README.md").read_text()


def test_the_command_says_before_and_after(run_copy, photos, tmp_path, capsys):
    words = ["eval", str(run_copy), "--out", str(tmp_path), "--device", "cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out
    test = json.loads((tmp_path / "test.json").read_text())
    before, after = test["ece"], test["calibrated"]["ece"]
    assert "fitted on 24 images of val: calibration error " in out
    assert f"error {before:.3f} without, {after:.3f} with it" in out
    assert main([*words, "--split", "val"]) == 0
    assert "of val, the same images: " in capsys.readouterr().out
    # Other data gets the temperature of the run's own val.
    assert main(["eval", str(run_copy), str(photos / "test"), "--device", "cpu"]) == 0
    assert "images of val: calibration error" in capsys.readouterr().out


def test_no_error_on_val_and_no_temperature(run, monkeypatch, tmp_path, capsys):
    original = ClassMetric.predictions

    def right(metric):
        scores = original(metric)
        logits = np.eye(scores.logits.shape[1], dtype=np.float32)[scores.labels]
        return replace(scores, logits=logits)

    monkeypatch.setattr(ClassMetric, "predictions", right)
    out = ["--out", str(tmp_path), "--device", "cpu"]
    assert main(["eval", str(run), "--split", "val", *out]) == 0
    assert "temperature" not in capsys.readouterr().out
    assert json.loads((tmp_path / "val.json").read_text())["calibrated"] is None


def test_the_numbers_are_those_of_the_divided_logits():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(90, 7)) * 4
    labels = generator.integers(0, 7, 90)
    found = calibrate(logits, labels, 1.7, fitted_on="val", fitted_n=45)
    divided = classify(logits / 1.7, labels, [str(i) for i in range(7)], resamples=0)
    assert found.nll == pytest.approx(divided.nll, rel=1e-12)
    assert found.ece == pytest.approx(divided.ece, rel=1e-12)
    with pytest.raises(DataError, match="at least one example"):
        calibrate(logits[:0], labels[:0], 1.7, fitted_on="val", fitted_n=45)
