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
from vitral.errors import DataError
from vitral.tasks.classification import (
    Classification,
    ClassMetric,
    calibrate,
    classify,
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
    assert val["calibrated"]["nll"] < val["nll"]  # that is what was minimised
    assert Classification.from_dict(test).calibrated.temperature == found


def test_the_temperature_travels_with_the_model(run, photos, tmp_path):
    """The model folder alone has it; a run from before the key reads its val."""
    found = stored(run, "val")["calibrated"]["temperature"]
    assert found != 1.0
    config = run / "model" / "config.json"
    assert json.loads(config.read_text())["vitral"]["temperature"] == found
    alone = tmp_path / "alone"
    shutil.copytree(run / "model", alone)
    assert temperature(alone) == temperature(run) == found
    older = tmp_path / "older"
    shutil.copytree(run, older)
    about = json.loads(config.read_text())
    del about["vitral"]["temperature"]
    (older / "model" / "config.json").write_text(json.dumps(about))
    assert temperature(older) == found
    assert temperature(older / "model") == 1.0


def temperature(path: Path) -> float:
    return open_run(path).stored.get("temperature", 1.0)


def test_answers_are_divided_by_the_temperature(run, photos):
    opened = open_run(run)
    image = next((photos / "test").rglob("*.png"))
    with torch.no_grad():
        logits = predict_outputs(
            opened.model,
            opened.preprocess(image)[None],
            InferenceSpec(views=opened.extra["eval_views"]),
        )[0].double()
    wanted = (logits / temperature(run)).softmax(0)
    (answer,) = opened.predict([image])
    assert list(answer.probabilities.values()) == pytest.approx(wanted, rel=1e-5)
    assert answer.confidence != pytest.approx(logits.softmax(0).max().item(), rel=1e-3)


def test_a_planted_temperature_is_recovered(run_copy, tmp_path):
    """All logits times 2.5: the same function but for its confidence."""
    before = stored(run_copy, "val")["calibrated"]
    after_test = stored(run_copy, "test")["calibrated"]
    opened = open_run(run_copy)
    with torch.no_grad():
        for parameter in opened.model.head.parameters():
            parameter.mul_(2.5)
    vt.save(
        run_copy / "model",
        opened.model,
        opened.preprocess,
        classes=opened.classes,
        extra=opened.extra,
    )
    hotter = open_run(run_copy)
    evaluate(hotter, split="val", device="cpu")
    found = stored(run_copy, "val")["calibrated"]
    assert found["temperature"] / before["temperature"] == pytest.approx(2.5, abs=0.01)
    assert found["nll"] == pytest.approx(before["nll"], rel=1e-4)
    evaluate(hotter, split="test", device="cpu")
    test = stored(run_copy, "test")
    assert test["calibrated"]["temperature"] == found["temperature"]
    assert test["calibrated"]["nll"] == pytest.approx(after_test["nll"], rel=1e-3)


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
