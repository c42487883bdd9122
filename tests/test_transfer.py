"""The transfer table: the numbers of the protocols, nothing twice, what fails."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vitral as vt
from helpers import TINY, randomise
from photos import make_photos, tiny_config
from vitral.cli import main
from vitral.data import Preprocess
from vitral.errors import ConfigError, InterruptedRun
from vitral.evaluation import Interval
from vitral.models import ViT, ViTConfig
from vitral.recipes import plan_finetuning
from vitral.workflows.features import image_size
from vitral.workflows.features.probes import ProbeSettings, probe_weights
from vitral.workflows.runtime import Runtime
from vitral.workflows.transfer.table import TransferResult, TransferTable
from vitral.workflows.transfer.transfer import transfer

module = importlib.import_module("vitral.workflows.transfer.transfer")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> list[str]:
    """Two data sets; the second has three images a class to learn from."""
    root = tmp_path_factory.mktemp("data")
    many = make_photos(root / "many", splits=("train", "test"), per_class=7)
    few = make_photos(root / "few", per_class=3)
    return [str(many), str(few)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> list[str]:
    """Two models in two layouts."""
    root = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("one", "two")):
        model = ViT(ViTConfig(**TINY))
        randomise(model, seed)
        vt.save(root / name, model, Preprocess(image_size=(48, 80)))
    vt.convert(root / "two", root / "other", "huggingface")
    return [str(root / "one"), str(root / "other")]


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The protocol of each cell that is computed."""
    calls = []
    original = module.run_probe

    def rows_of(material, *, protocol, **settings):
        calls.append(protocol)
        return original(material, protocol=protocol, **settings)

    monkeypatch.setattr(module, "run_probe", rows_of)
    return calls


def quiet(line: str) -> None:
    """For what is announced."""


def filled(weights, sets, out, **changes) -> TransferTable:
    settings = {
        "probes": ProbeSettings(shots=(2,), k=3),
        "cache": out / "cache",
        "runtime": Runtime(device="cpu"),
    }
    return transfer(weights, sets, out=out, **{**settings, **changes})


def test_every_number_is_that_of_its_protocol(weights, sets, tmp_path, counted):
    rows = weights[1:]
    table = filled(rows, sets, tmp_path)
    assert len(counted) == 6
    assert table.protocols == ("2-shot", "linear", "3-nn")
    assert table.failures == ()
    for protocol, name, changes in (
        ("fewshot", "2-shot", {"shots": (2,)}),
        ("linear", "linear", {}),
        ("knn", "3-nn", {"k": 3}),
    ):
        for row in rows:
            values = []
            for data in sets:
                (wanted,), _ = probe_weights(
                    row,
                    data,
                    protocol=protocol,
                    folder=tmp_path / "cache",
                    settings=ProbeSettings(**changes),
                )
                entry = table.entry(row, data, name)
                assert entry.accuracy == wanted.accuracy
                values.append(wanted.accuracy)
                if protocol == "fewshot":
                    draws = [one.accuracy for one in wanted.probes]
                    assert entry.interval == (min(draws), max(draws))
                    assert entry.of == "3 draws"
                else:
                    assert entry.interval == wanted.probes[0].interval
                    assert entry.of == "images"
            assert table.mean(row, name) == pytest.approx(sum(values) / 2)
    stored = json.loads((tmp_path / "table.json").read_text())
    assert [cell["accuracy"] for cell in stored["cells"]] == [
        entry.accuracy for entry in table.entries
    ]
    text = (tmp_path / "table.md").read_text()
    assert "## 2-shot" in text
    assert "| other " in text


SCRIPT = """
import os, signal, sys
from vitral.workflows.features import ProbeSettings
from vitral.workflows.runtime import Runtime
from vitral.workflows.transfer.transfer import transfer
import logging
seen = []
class Killer(logging.Handler):
    def emit(self, record):
        seen.append(record)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
logging.getLogger("vitral").addHandler(Killer())
logging.getLogger("vitral").setLevel(logging.INFO)
weights, data, out = sys.argv[1:3], sys.argv[3:5], sys.argv[5]
transfer(weights, data, out=out, probes=ProbeSettings(shots=(2,), k=3),
         cache=out + "/cache", runtime=Runtime(device="cpu"),
         protocols=("fewshot", "knn"))
"""


def test_a_killed_table_repeats_no_finished_cell(weights, sets, tmp_path, counted):
    source = Path(__file__).parents[1] / "src"
    words = [sys.executable, "-c", SCRIPT, *weights, *sets, str(tmp_path)]
    killed = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(source)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    probes = ("fewshot", "knn")
    table = filled(weights, sets, tmp_path, protocols=probes)
    assert len(counted) == 8 - 4
    assert [entry.fresh for entry in table.entries] == [False] * 4 + [True] * 4
    again = filled(weights, sets, tmp_path, protocols=probes)
    assert len(counted) == 4
    assert [entry.accuracy for entry in again.entries] == [
        entry.accuracy for entry in table.entries
    ]


def test_what_changes_a_number_changes_its_cell(sets, tmp_path, counted):
    folder = tmp_path / "w"
    for seed in (0, 1):
        model = ViT(ViTConfig(**TINY))
        randomise(model, seed)
        vt.save(folder, model, Preprocess(image_size=(48, 80)))
        filled([str(folder)], sets[:1], tmp_path, protocols=("knn",))
        assert len(counted) == seed + 1  # the same path with other weights
    filled([str(folder)], sets[:1], tmp_path, protocols=("fewshot",))
    other = ProbeSettings(shots=(2,), k=3, seed=1)
    filled([str(folder)], sets[:1], tmp_path, protocols=("fewshot",), probes=other)
    assert len(counted) == 4
    moved = folder.rename(tmp_path / "moved")
    filled([str(moved)], sets[:1], tmp_path, protocols=("knn",))
    assert len(counted) == 5  # a cell belongs to the word that it was asked with


def test_another_image_size_is_another_cell(sets, tmp_path, counted, monkeypatch):
    """Weights of 448 pixels are computed at 224 for small images; the rule may change.

    The number of the new size is that of a table without a cache.
    """
    model = ViT(ViTConfig(**{**TINY, "image_size": (448, 448), "patch_size": 32}))
    randomise(model, 0)
    vt.save(tmp_path / "large", model, Preprocess(image_size=(448, 448)))
    rows = [str(tmp_path / "large")]
    filled(rows, sets[:1], tmp_path, protocols=("knn",))
    filled(rows, sets[:1], tmp_path, protocols=("knn",))
    assert len(counted) == 1
    monkeypatch.setattr(image_size, "USUAL", 320)
    other = filled(rows, sets[:1], tmp_path, protocols=("knn",))
    assert len(counted) == 2
    alone = filled(rows, sets[:1], tmp_path / "alone", protocols=("knn",))
    assert other.entries[0].accuracy == alone.entries[0].accuracy


def test_a_failing_cell_costs_no_other(weights, sets, tmp_path, capsys):
    words = ["transfer", *weights[:1], "--data", *sets, "nowhere", "--shots", "5"]
    words += ["--protocol", "fewshot", "knn", "--k", "3", "--out", str(tmp_path)]
    words += ["--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    assert main(words) == 3  # that of the first: too few images for 5 shots
    captured = capsys.readouterr()
    assert "3 of 6 cells have no number" in captured.err
    assert "few, 5-shot" in captured.err
    stored = json.loads((tmp_path / "table.json").read_text())
    by_cell = {
        (Path(cell["data"]).name, cell["protocol"]): cell for cell in stored["cells"]
    }
    assert {cell for cell, found in by_cell.items() if found["error"]} == {
        ("few", "5-shot"),
        ("nowhere", "5-shot"),
        ("nowhere", "3-nn"),
    }
    assert "3 images" in by_cell["few", "5-shot"]["error"]
    assert all(
        found["accuracy"] is not None
        for found in by_cell.values()
        if not found["error"]
    )
    assert {row["mean"] for row in stored["means"]} == {None}
    assert "one, nowhere, 5-shot; one, nowhere, 3-nn: data 'nowhere'" in captured.out
    assert main([*words, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["kind"] == "transfer"


def test_an_unexpected_error_is_a_cell_too(weights, sets, tmp_path, monkeypatch):
    def broken(*arguments, **settings):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(module, "extract_splits", broken)
    (entry,) = filled(weights[:1], sets[:1], tmp_path, protocols=("knn",)).entries
    assert entry.error == "RuntimeError: out of memory"
    assert entry.exit_code == 1


def test_a_signal_is_no_failed_cell(weights, sets, tmp_path, monkeypatch):
    def stopped(*arguments, **settings):
        raise InterruptedRun("stopped", 143)

    monkeypatch.setattr(module, "extract_splits", stopped)
    with pytest.raises(InterruptedRun):
        filled(weights, sets, tmp_path)


@pytest.mark.usefixtures("no_report")
def test_a_run_and_fine_tuning_are_rows_and_columns(sets, tmp_path):
    run = tmp_path / "run"
    vt.train(tiny_config(sets[0], loop={"steps": 1, "eval_every": 1}), run)

    def short(weights, data):
        return plan_finetuning(
            weights, data, lrs=(0.03,), steps=2, batch_size=9, image_size=32, seeds=2
        )

    chosen = {"protocols": ("knn", "finetune"), "plan": short}
    table = filled([run], sets[:1], tmp_path / "out", **chosen)
    assert table.failures == ()
    tuned = table.entry(str(run), sets[0], "finetune")
    assert tuned.of == "2 seeds"
    assert tuned.fresh
    again = filled([run], sets[:1], tmp_path / "out", **chosen)
    assert not any(entry.fresh for entry in again.entries)
    assert again.entry(str(run), sets[0], "finetune").accuracy == tuned.accuracy


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocols": ("guess",)}, "must be one of fewshot, linear, knn, finetune"),
        ({"protocols": ()}, "needs weights, data and a protocol"),
        ({"protocols": ("finetune",)}, "needs `plan`"),
    ],
)
def test_what_is_no_table(weights, sets, tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        filled(weights, sets, tmp_path, **changes)


def test_the_text_of_a_table():
    def entry(weights, data, accuracy, **fields):
        return TransferResult(
            weights=weights,
            data=data,
            protocol="linear",
            accuracy=accuracy,
            interval=None if accuracy is None else Interval(0.25, 0.75),
            **fields,
        )

    table = TransferTable(
        weights=("x/a", "y/a"),
        data=("p/d", "q/e"),
        protocols=("linear",),
        entries=(
            entry("x/a", "p/d", 0.5, seconds=3.04),
            entry("x/a", "q/e", 0.6, seconds=90.0),
            entry("y/a", "p/d", 0.7, seconds=7200.0),
            entry("y/a", "q/e", None, error="It broke.", exit_code=3),
        ),
    )
    assert table.mean("x/a", "linear") == pytest.approx(0.55)
    assert table.mean("y/a", "linear") is None
    assert table.markdown() == (
        "## linear\n\n"
        "| weights | d                         | e                           | mean |\n"
        "|---------|---------------------------|-----------------------------|------|\n"
        "| x/a     | 50.0 (25.0 to 75.0) 3.0 s | 60.0 (25.0 to 75.0) 1.5 min | 55.0 |\n"
        "| y/a     | 70.0 (25.0 to 75.0) 2.0 h | failed                      | -    |\n"
        "\n"
        "Test accuracy in %, in brackets the 95 % interval over test images; then the "
        "time it took.\n\n"
        "## Failed\n\n- y/a, e, linear: It broke.\n"
    )


def test_a_group_is_its_members(weights, tmp_path, monkeypatch):
    """None of them is here, so each cell says which files are missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = vt.transfer(
        weights[:1],
        ["vtab/structured"],
        protocols=["knn"],
        probes=ProbeSettings(k=3),
        out=tmp_path / "t",
    )
    names = {entry.data for entry in table.failures}
    assert len(names) == 8
    assert "vtab/dmlab" in names


def test_the_command_is_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["transfer", "weights", "--data", "photos"]) == 2
    assert "start it without torchrun" in capsys.readouterr().err
