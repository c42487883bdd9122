"""Images that become unreadable after the audit are wrong answers, and said."""

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitral.data
from photos import tiny_config
from vitral.cli import main
from vitral.data import Example
from vitral.errors import DataError
from vitral.tasks.representation import MAEConfig
from vitral.workflows import Run, TrainConfig, open_run
from vitral.workflows import dataset as run_dataset
from vitral.workflows.runtime import Runtime
from vitral.workflows.train import train
from vitral.workflows.unread import find_unread

CPU = Runtime(device="cpu")
COUNTS = {"train": 60, "val": 120, "test": 120}


def make_data(root: Path) -> Path:
    """Three classes of flat colours with noise, 100 images each."""
    generator = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for index in range(count):
            label = index % 3
            folder = root / split / f"c{label}"
            folder.mkdir(parents=True, exist_ok=True)
            noise = generator.integers(0, 60, (24, 24, 3), dtype=np.uint8)
            pixels = np.full((24, 24, 3), 60 * label, np.uint8) + noise
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def config_for(data: Path, **changes: object) -> TrainConfig:
    loop = {"eval_every": 2, "log_every": 1, "checkpoint_every": 2}
    return tiny_config(data, loop=loop, epochs=1.0, image_size=(32, 32), **changes)


def break_after_audit(monkeypatch: pytest.MonkeyPatch, files: list[Path]) -> None:
    """Remove, cut and replace files once the audit has seen them whole."""
    audit_dataset = run_dataset.audit_dataset

    def audit_and_break(*args, **settings):
        audit = audit_dataset(*args, **settings)
        for index, file in enumerate(files):
            content = file.read_bytes()
            file.unlink()
            if index % 3 == 1:
                file.write_bytes(content[: len(content) // 2])
            if index % 3 == 2:
                file.mkdir()
        return audit

    monkeypatch.setattr("vitral.workflows.train.plan.audit_dataset", audit_and_break)


def read_rows(run: Path, split: str) -> list[dict[str, str]]:
    with (run / "predictions" / f"{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_of_each_split_counts_as_wrong(data, tmp_path, monkeypatch, caplog):
    gone = [data / "val/c0/000.png", data / "test/c1/001.png"]
    break_after_audit(monkeypatch, gone)
    with caplog.at_level(logging.WARNING, "vitral"):
        run = train(config_for(data), tmp_path / "run", runtime=CPU)
    for split, name in (("val", "val/c0/000.png"), ("test", "test/c1/001.png")):
        result = run.result(split)
        assert result.n == COUNTS[split]
        rows = read_rows(run.path, split)
        assert len(rows) == COUNTS[split]
        (row,) = [row for row in rows if row["path"] == name]
        assert row["correct"] == "0"
        assert result.top1 == sum(r["correct"] == "1" for r in rows) / len(rows)
        assert f"unreadable: {name} ({split})" in caplog.text
    document = json.loads((run.path / "data.json").read_text())
    assert [row["path"] for row in document["bad"]] == [
        "val/c0/000.png",
        "test/c1/001.png",
    ]
    assert "test/c1/001.png" in (run.path / "report.html").read_text()


def test_eval_of_the_same_says_the_same(data, tmp_path, capsys):
    run = train(config_for(data), tmp_path / "run", runtime=CPU)
    before = run.result("test").top1 * COUNTS["test"]
    lost = [row for row in read_rows(run.path, "test") if row["correct"] == "1"][:40]
    for row in lost:
        (data / row["path"]).write_bytes(b"no image")
    assert main(["eval", str(run.path), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    result = Run(run.path).result("test")
    assert result.n == COUNTS["test"]
    assert result.top1 == pytest.approx((before - 40) / COUNTS["test"])
    assert "40 files could not be read and count as wrong" in out
    words = ["eval", str(run.path), "--device", "cpu", "--bad-files", "refuse"]
    assert main(words) == 3
    for accepted, code in (("0.33", 3), ("39", 3), ("0.34", 0), ("40", 0)):
        assert main([*words[:-2], "--max-bad", accepted]) == code
    assert "40 of 120 images of test cannot be read, more" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_more_than_the_accepted_share_ends_the_run(split, data, tmp_path, monkeypatch):
    gone = sorted((data / split / "c0").glob("*.png"))[:6]
    break_after_audit(monkeypatch, gone)
    pattern = rf"\d of {COUNTS[split]} images can no longer be read.*{split}/c0/"
    with pytest.raises(DataError, match=pattern) as caught:
        train(config_for(data), tmp_path / "run", runtime=CPU)
    assert caught.value.exit_code == 3
    assert "with `resume=True`, or raise `max_bad` in a new" in str(caught.value)
    if split == "test":  # the model and the honest numbers are there
        run = open_run(tmp_path / "run")
        assert run.result("test").n == COUNTS["test"]
        assert (run.path / "report.html").is_file()


@pytest.mark.parametrize("max_bad", [0.05, 6])
def test_what_is_accepted_is_a_share_or_a_number(max_bad, data, tmp_path, monkeypatch):
    gone = sorted((data / "val" / "c0").glob("*.png"))[:6]
    break_after_audit(monkeypatch, gone)
    config = replace(config_for(data), max_bad=float(max_bad))
    run = train(config, tmp_path / "run", runtime=CPU)
    assert run.result("val").n == COUNTS["val"]
    assert run.result("val").n_unreadable == 6


def test_an_audit_of_a_sample_hides_nothing(data, tmp_path, monkeypatch):
    """Above its limit the audit decodes some images only."""
    for file in sorted((data / "test").rglob("*.png"))[1::2]:
        file.write_bytes(b"no image")
    monkeypatch.setattr(run_dataset, "MAX_FULL_AUDIT_IMAGES", 10)
    seen = vitral.data.audit.check

    def check_two(dataset, workers=0, full=True, **settings):
        few = replace(dataset, examples=dataset.select("train"))
        audit = seen(few, workers, full, **settings)
        return replace(audit, dataset=dataset)

    monkeypatch.setattr(vitral.data, "check", check_two)
    with pytest.raises(DataError, match="60 of 120 images can no longer be read"):
        train(config_for(data), tmp_path / "run", runtime=CPU)
    result = Run(tmp_path / "run").result("test")
    assert result.n == 120
    assert result.top1 <= 0.5


def test_a_run_without_labels(data, tmp_path, monkeypatch):
    gone = [data / "val/c0/000.png"]
    break_after_audit(monkeypatch, gone)
    config = config_for(data, objective=MAEConfig(decoder_dim=16, decoder_depth=1))
    run = train(config, tmp_path / "run", runtime=CPU)
    document = json.loads((run.path / "representation.json").read_text())
    assert document["splits"]["val"]["n"] == COUNTS["val"]
    assert document["splits"]["val"]["unread"] == 1
    assert document["splits"]["test"]["unread"] == 0


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_a_probe_counts_them(protocol, data, tmp_path, capsys):
    run = train(config_for(data), tmp_path / "run", runtime=CPU)
    words = ["eval", str(run.path), str(data), "--protocol", protocol, "--json"]
    (data / "test/c0/000.png").unlink()
    (data / "test/c0/000.png").write_bytes(b"no image")
    assert main([*words, "--device", "cpu"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    (draw,) = row["draws"]
    assert draw["n"] == COUNTS["test"]
    assert draw["accuracy"] <= 1 - 1 / COUNTS["test"]  # the lost one is wrong


def test_what_no_batch_held():
    examples = tuple(Example(id=name, label=(0,), split="val") for name in "abc")
    (b, c) = find_unread(examples, ["a"], {"b": "cut"})
    assert (b.path, b.reason, b.split) == ("b", "cut", "val")
    assert c.reason == "it was not read"
    assert find_unread(examples, "cba", {"b": "once"}) == ()
