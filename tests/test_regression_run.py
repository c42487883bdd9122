"""A regression run from the table to the exported file: the area of a square."""

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitral.cli import main
from vitral.document import to_text
from vitral.report.compare_runs import compare
from vitral.report.load_run import load_run_folder
from vitral.tasks.regression import RegressionConfig
from vitral.tasks.regression.reporter import RegressionReporter
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.weights import load
from vitral.workflows import TrainConfig, open_run
from vitral.workflows.evaluate import evaluate
from vitral.workflows.runtime import Runtime
from vitral.workflows.train import train

CPU = Runtime(device="cpu")


def square(side: int, generator: np.random.Generator) -> Image.Image:
    """A white square somewhere on black, 32 x 32."""
    pixels = np.zeros((32, 32), np.uint8)
    top, left = generator.integers(0, 33 - side, 2)
    pixels[top : top + side, left : left + side] = 255
    return Image.fromarray(pixels)


def make_squares(folder: Path, images: int, seed: int = 0) -> Path:
    """FOLDER/labels.csv with the area of each square, and its side with gaps."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = ["path,target,side"]
    for index in range(images):
        side = int(generator.integers(2, 25))
        square(side, generator).save(folder / f"{index:04}.png")
        known = "" if index % 5 == 0 else side
        rows.append(f"{index:04}.png,{side * side},{known}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def config_for(data: Path, steps: int = 60, **changes: object) -> TrainConfig:
    loop = LoopConfig(
        steps=steps, eval_every=20, log_every=10, checkpoint_every=20, monitor="r2"
    )
    return TrainConfig(
        data=str(data),
        model="vit_mu16",
        model_changes={"depth": 1, "patch_size": 8, "class_token": False}
        | {"global_pool": "avg"},
        image_size=32,
        batch_size=32,
        objective=RegressionConfig(**changes),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup=5),
        loop=loop,
    )


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "squares", 240)


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the column `target`, with its report."""
    out = tmp_path_factory.mktemp("runs") / "squares"
    train(config_for(squares), out, runtime=CPU)
    return out


def stored(run: Path) -> dict[str, Any]:
    """What vitral keeps beside the model."""
    values: dict[str, Any] = json.loads((run / "model" / "config.json").read_text())
    return values["vitral"]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_run_learns_numbers(run):
    result = json.loads((run / "predictions" / "test.json").read_text())
    assert result["kind"] == "regression"
    assert result["r2"] > 0.5
    assert result["mae"] < result["baseline_mae"]
    model = stored(run)
    assert model["task"] == "regression"
    assert model["classes"] == ["target"]
    (half,) = model["interval_half_width"]
    assert result["columns"][0]["interval_half_width"] == half
    rows = read_csv(run / "predictions" / "test.csv")
    errors = [float(row["value"]) - float(row["target"]) for row in rows]
    assert np.mean(np.abs(errors)) == pytest.approx(result["mae"], rel=1e-6)
    inside = [float(r["low"]) <= float(r["target"]) <= float(r["high"]) for r in rows]
    assert np.mean(inside) == pytest.approx(result["columns"][0]["coverage"])
    page = (run / "report.html").read_text()
    for words in ("Mean absolute error", "Scatter of ", "Errors of ", "Worst errors"):
        assert words in page, words
    card = (run / "model" / "README.md").read_text()
    assert "A model that reads numbers from images" in card
    assert "R2" in card


def test_statistics_are_those_of_train(run, squares):
    area = {
        row["path"]: float(row["target"]) for row in read_csv(squares / "labels.csv")
    }
    rows = read_csv(run / "split.csv")
    values = [area[row["path"]] for row in rows if row["split"] == "train"]
    model = stored(run)
    assert model["target_mean"] == pytest.approx([np.mean(values)])
    assert model["target_std"] == pytest.approx([np.std(values)])


def test_an_evaluation_gives_the_numbers_of_the_run(run, tmp_path, capsys):
    expected = json.loads((run / "predictions" / "test.json").read_text())
    assert main(["eval", str(run), "--json", "--out", str(tmp_path / "e")]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["eval", str(run), "--out", str(tmp_path / "f")]) == 0
    text = capsys.readouterr().out
    assert f"test: R2 {expected['r2']:.4g} (95 % interval" in text
    assert "always answering the mean" in text
    assert "90 % interval of target: answer ±" in text


def test_other_data_is_measured(run, tmp_path):
    other = make_squares(tmp_path / "other", 30, seed=9)
    (other / "0003.png").write_bytes(b"no image")
    measured = evaluate(open_run(run), data=str(other), out=tmp_path / "e")
    assert (measured.result.n, measured.result.n_unreadable) == (30, 1)
    (row,) = [
        r for r in read_csv(next((tmp_path / "e").glob("*.csv"))) if not r["value"]
    ]
    assert row["path"] == "0003.png"


def test_predictions_are_in_the_units_of_the_table(run, squares, tmp_path, capsys):
    files = [str(squares / f"{index:04}.png") for index in range(12)]
    assert main(["predict", str(run), *files]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row) for row in rows] == [["path", "value", "low", "high"]] * 12
    out = tmp_path / "p.csv"
    assert main(["predict", str(run), *files, "--out", str(out)]) == 0
    table = read_csv(out)
    assert list(table[0]) == ["path", "value", "low", "high", "error"]
    values = [row["value"] for row in rows]
    assert [float(row["value"]) for row in table] == pytest.approx(values, rel=1e-4)
    by_path = {r["path"]: r for r in read_csv(run / "predictions" / "test.csv")}
    shared = [row for row in rows if Path(row["path"]).name in by_path]
    assert shared
    for row in shared:
        stored = float(by_path[Path(row["path"]).name]["value"])
        assert row["value"] == pytest.approx(stored, rel=1e-4, abs=1e-2)


def test_an_exported_file_gives_the_same_numbers(run, squares, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["export", str(run), str(tmp_path / "m.onnx")]) == 0
    assert "the same answer on 100.00 %" in capsys.readouterr().out
    exported, model = open_run(tmp_path / "m.onnx"), open_run(run)
    assert exported.task.name == "regression"
    images = [squares / f"{index:04}.png" for index in range(6)]
    pairs = zip(exported.predict(images), model.predict(images), strict=True)
    for ours, theirs in pairs:
        assert ours.row() == pytest.approx(theirs.row(), rel=1e-3, abs=0.05)
        assert ours.row()["low"] is not None
    # The file knows its column without the run.
    other = make_squares(tmp_path / "other", 20, seed=9)
    measured = evaluate(exported, data=str(other), out=tmp_path / "e")
    assert measured.result.columns[0].name == "target"


def test_a_resumed_run_is_the_same(squares, tmp_path, no_report):
    settings = config_for(squares, steps=40, loss="huber")
    train(settings, tmp_path / "whole", runtime=CPU)
    out = tmp_path / "cut"
    train(replace(settings, loop=replace(settings.loop, steps=40)), out, runtime=CPU)
    (newest,) = [f for f in (out / "checkpoints").iterdir() if f.name.endswith("40")]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    train(settings, out, runtime=CPU, resume=True)
    for name in ("predictions/test.json", "predictions/test.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_columns_with_gaps(squares, tmp_path, no_report, capsys):
    settings = config_for(squares, target=("side", "target"), loss="l1")
    train(settings, tmp_path / "run", runtime=CPU)
    run = open_run(tmp_path / "run")
    assert run.labels.names == ("side", "target")
    result = run.result("test")
    side, area = result.columns
    assert (side.name, area.n) == ("side", result.n)
    assert 0 < side.n < result.n
    assert min(side.r2, area.r2) > 0.4
    assert result.r2 == pytest.approx((side.r2 + area.r2) / 2)
    rows = read_csv(tmp_path / "run" / "predictions" / "test.csv")
    assert {"side.target", "side.error", "target.value", "target.high"} <= set(rows[0])
    assert sum(not row["side.target"] for row in rows) == result.n - side.n
    (answer,) = run.predict([squares / "0000.png"])
    assert list(answer.row())[:4] == [
        "side.value",
        "side.low",
        "side.high",
        "target.value",
    ]
    assert main(["eval", str(tmp_path / "run"), "--out", str(tmp_path / "e")]) == 0
    assert "  side " in capsys.readouterr().out


def test_runs_are_compared_by_their_errors(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    names = ("path", "target", "value", "low", "high", "error")
    rows = read_csv(run / "predictions" / "test.csv")
    half = [{**row, "value": str(_halfway(row))} for row in rows]
    _write_csv(other / "predictions" / "test.csv", names, reversed(half))
    table = compare([load_run_folder(run), load_run_folder(other)])
    remark, note = (line.replace("\N{NO-BREAK SPACE}", " ") for line in table.remarks)
    assert "mean absolute error of the second less that of the first" in note
    assert remark.startswith(f"other is better than {run.name} on the same ")
    assert "(paired bootstrap of the errors, p = 0.0002)" in remark
    [row] = table.pairs[0].rows
    mae = load_run_folder(run).results["test"].mae
    assert to_text(row.cells[1]) == f"{-mae / 2:+.3g}"
    # Unreadable images count with the error of the mean, so all of them are equal.
    lost = [{**row, "value": ""} for row in rows]
    _write_csv(other / "predictions" / "test.csv", names, lost)
    scores = RegressionReporter().image_scores(load_run_folder(other))
    baseline = load_run_folder(run).results["test"].baseline_mae
    assert scores.values.mean() == pytest.approx(baseline, rel=1e-6)


def _halfway(row: dict[str, str]) -> float:
    return (float(row["target"]) + float(row["value"])) / 2


def _write_csv(
    file: Path, names: Sequence[str], rows: Iterable[dict[str, str]]
) -> None:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)


def test_the_command_line_learns_a_named_column(squares, tmp_path, no_report, capsys):
    argv = ["train", str(squares), "--target", "side", "--steps", "6", "--warmup", "1"]
    argv += ["--out", str(tmp_path / "run")]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert "task: regression, side" in captured.out + captured.err
    assert open_run(tmp_path / "run").labels.names == ("side",)
    settings = open_run(tmp_path / "run").config
    assert (settings.loop.monitor, settings.recipe) == ("none", "small.scratch")
    assert main(["train", str(squares), "--target", "side", "--dry-run"]) == 0


def test_a_new_head_answers_the_mean(squares, tmp_path, no_report):
    settings = config_for(squares, steps=1)
    settings = replace(settings, optim=OptimConfig(lr=1e-12))
    settings = replace(settings, schedule=ScheduleConfig(warmup=0))
    train(settings, tmp_path / "run", runtime=CPU)
    run = open_run(tmp_path / "run")
    (answer,) = run.predict([squares / "0000.png"])
    assert answer.row()["value"] == pytest.approx(run.extra["target_mean"][0], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_small_recipe_reads_areas(seed, tmp_path, no_report):
    squares = make_squares(tmp_path / "squares", 860)
    out = tmp_path / "run"
    argv = ["train", str(squares), "--recipe", "small.scratch", "--epochs", "25"]
    assert main([*argv, "--out", str(out), "--seed", str(seed)]) == 0
    result = open_run(out).result("test")
    assert result is not None
    assert result.headline().require()[0] > 0.99


def test_a_head_of_another_library_answers_plain_numbers(tmp_path):
    from helpers import TINY, randomise
    from vitral.data import Preprocess
    from vitral.models import ViT, ViTConfig
    from vitral.weights import convert, save

    model = ViT(ViTConfig(**{**TINY, "num_classes": 1}))
    randomise(model)
    save(tmp_path / "ours", model, Preprocess(image_size=(48, 80)))
    convert(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    run = open_run(tmp_path / "theirs")
    assert run.task.name == "regression"
    image = Image.new("RGB", (80, 48), (200, 10, 40))
    (answer,) = run.predict([image])
    pixels = run.preprocess_input(image)[None]
    with torch.no_grad():
        expected = load(tmp_path / "theirs").model.eval()(pixels)
    assert answer.row()["value"] == pytest.approx(expected.item(), rel=1e-5)
