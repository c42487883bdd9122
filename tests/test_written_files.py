"""Files that vitral writes: equal bytes, one mode, no link followed, no formula."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import vitral as vt
from vitral.atomic_io import write_atomic
from vitral.cli.logs import append_text, set_log_folder
from vitral.data import Preprocess
from vitral.data.names import escape_cell, unescape_cell
from vitral.errors import ConfigError
from vitral.models import ViTConfig, build_model
from vitral.tasks.classification import read_predictions, write_predictions
from vitral.tasks.classification.answer import ClassPrediction
from vitral.training.log import MetricsLog
from vitral.weights.files import write_safetensors
from vitral.workflows.predict.writers import CsvWriter, PredictionRow
from vitral.workflows.run_lock import lock_file, require_unlocked

FORMULAS = (
    "=1+1.jpg",
    "+a.jpg",
    "-b.jpg",
    "@c.jpg",
    "\td.jpg",
    "'=e.jpg",
    "''-f.jpg",
    "'g.jpg",
    "h=1.jpg",
)


def test_a_cell_is_no_formula_and_is_read_back(tmp_path):
    for name in FORMULAS:
        cell = escape_cell(name)
        assert cell.startswith("'") or cell == name
        assert cell[0] not in "=+-@\t"
        assert unescape_cell(cell) == name
    assert escape_cell("=1+1.jpg") == "'=1+1.jpg"
    assert escape_cell("'g.jpg") == "'g.jpg"
    classes = ("=cmd|' /C calc'!A0", "bee")
    file = tmp_path / "test.csv"
    labels = np.arange(len(FORMULAS)) % 2
    lost = [("=lost.jpg", 0)]
    logits = np.eye(2)[labels]
    write_predictions(file, FORMULAS, logits, labels, classes, unreadable=lost)
    with file.open(newline="") as lines:
        cells = [cell for row in csv.reader(lines) for cell in row if cell]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    rows = read_predictions(file)
    assert [row.path for row in rows] == [*FORMULAS, "=lost.jpg"]
    assert rows[0].label == rows[0].predicted == classes[0]
    writer = CsvWriter({"label": str, "confidence": float})
    answer = ClassPrediction(label=classes[0], confidence=-0.5, probabilities={})
    text = writer.format_row(PredictionRow("=x.jpg", answer))
    assert text == "'=x.jpg,'=cmd|' /C calc'!A0,-0.5,\n"


def test_equal_models_are_equal_files(tmp_path):
    """The order of a Rust map changes from process to process."""
    code = (
        "import sys, torch\n"
        "from vitral.weights.files import write_safetensors\n"
        "from pathlib import Path\n"
        "metadata = {f'key {i}': 'é' * i for i in range(12)}\n"
        "tensors = {f'w{i}': torch.ones(3, i + 1) for i in range(5)}\n"
        "write_safetensors(Path(sys.argv[1]), tensors, metadata)\n"
    )
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, file], check=True)
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as opened:
        metadata = opened.metadata()
        assert torch.equal(opened.get_tensor("w4"), torch.ones(3, 5))
    assert list(metadata) == sorted(metadata) or metadata["key 11"] == "é" * 11
    assert metadata["key 11"] == "é" * 11
    assert metadata["format"] == "pt"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_all_files_have_the_mode_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        config = ViTConfig(image_size=32, embed_dim=16, depth=1, num_heads=2)
        vt.save(tmp_path / "model", build_model(config), Preprocess())
        write_safetensors(tmp_path / "a.safetensors", {"w": torch.ones(2)})
        write_atomic(tmp_path / "a.txt", "text")
        MetricsLog(tmp_path / "metrics.jsonl").close()
    finally:
        os.umask(before)
    found = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*.*")}
    assert set(found.values()) == {mode}, found


def test_links_in_a_run_folder_are_not_followed(tmp_path):
    target, run = tmp_path / "own.txt", tmp_path / "run"
    target.write_text("mine")
    run.mkdir()
    for name in ("lock.json", "metrics.jsonl", "log.txt"):
        (run / name).symlink_to(target)
    with pytest.raises(ConfigError, match=r"lock\.json is a link, and the lock of"):
        require_unlocked(run / "lock.json")
    with pytest.raises(ConfigError, match="is a link"), lock_file(run / "lock.json"):
        pass
    with pytest.raises(ConfigError, match=r"metrics.jsonl cannot be .*it is a link"):
        MetricsLog(run / "metrics.jsonl")
    with pytest.raises(ConfigError, match=r"log.txt is a link, and a log must be"):
        set_log_folder(run)
    assert not append_text(run / "log.txt", "line")
    assert target.read_text() == "mine"
    # A whole run folder may be a link.
    (tmp_path / "other").mkdir()
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path / "other")
    MetricsLog(Path(linked) / "metrics.jsonl").close()
    with lock_file(linked / "lock.json"):
        assert (tmp_path / "other" / "lock.json").is_file()
