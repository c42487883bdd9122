"""A sweep that is stopped, fails in parts or runs late; and its commands, run."""

import importlib
import json
import shlex
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

import vitral as vt
from vitral import autotune
from vitral.autotune import Candidate, SweepPlan
from vitral.autotune import candidate as made_in
from vitral.autotune.calibration_data import SweepImages
from vitral.cli import main
from vitral.errors import ConfigError
from vitral.workflows.inference import InferenceSpec
from vitral.workflows.run import open_run

SOURCE = Path(__file__).parents[1] / "src"


def quiet(line: str) -> None:
    """Nobody listens."""


def small(**changes) -> SweepPlan:
    settings = {"merges": (0,), "batches": (2,), "rounds": 1, "minutes": 0.0}
    return SweepPlan(**{**settings, **changes})


def a_point(**changes) -> autotune.Point:
    return autotune.Point(
        candidate=Candidate(**{"image_size": (32, 48), "batch": 3, **changes}),
        ms=1.0,
        ms_range=(1.0, 1.0),
        first_ms=1.0,
        speedup=1.0,
        accuracy=0.9,
        interval=(0.8, 1.0),
        drop=0.0,
        drop_interval=(-40.0, 40.0),
        images=40,
    )


EVERY = {"merge": 1, "merge_schedule": "every_fourth"}


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"runtime": "torch", **EVERY}, {}),
        ({"runtime": "onnx", **EVERY}, {}),
        ({"runtime": "openvino", **EVERY}, {}),
        ({"runtime": "openvino", "precision": "bf16", **EVERY}, {}),
        ({"runtime": "openvino", "precision": "int8", **EVERY}, {}),
        ({"runtime": "torch", "image_size": (48, 32), **EVERY}, {}),
        ({"runtime": "onnx", "image_size": (48, 32), **EVERY}, {"views": "flip"}),
        ({"runtime": "openvino", "precision": "bf16"}, {"views": "flip"}),
    ],
)
def test_what_is_printed_can_be_run(
    run, photos, tmp_path, changes, settings, monkeypatch, capsys
):
    point = a_point(**changes)
    one = point.candidate
    lines = autotune.commands(point, str(run), run_size=(32, 48), **settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    photo = str(sorted(photos.rglob("*.png"))[0])
    for line in lines:
        words = shlex.split(line.replace("IMAGES...", shlex.quote(photo)))
        if words[0] == "vitral":
            assert main(words[1:]) == 0, line
        else:
            assert words[:2] == ["python", "-c"]
            told = subprocess.run(
                [sys.executable, *words[1:]], check=True, capture_output=True, text=True
            )
            print(told.stdout)
    assert "label" in capsys.readouterr().out
    if one.runtime != "torch":
        (file,) = [p for p in tmp_path.iterdir() if p.name.startswith("model")]
        found = vt.open(file)
        config = found.model.config
        assert (config.merge_rate, config.merge_schedule) == (
            one.merge,
            one.merge_schedule,
        )
        assert found.preprocess.image_size == one.image_size
        assert found.model.precision == one.precision
        assert found.extra.get("eval_views", "one") == settings.get("views", "one")


def test_what_fails_halfway_is_left_out_and_nothing_is_lost(run, tmp_path, monkeypatch):
    tries = []

    def broken(proto):
        tries.append(proto)
        raise RuntimeError("no such operation:\n  Frobnicate")

    monkeypatch.setattr(made_in, "_onnx", broken)
    heard: list[str] = []
    plan = small(ways=("torch", "onnx", "openvino"), batches=(2, 3))
    swept = autotune.sweep(run, plan, heard.append)
    kinds = [(p.candidate.runtime, p.candidate.batch) for p in swept.points]
    assert kinds == [("torch", 2), ("torch", 3), ("openvino", 2), ("openvino", 3)]
    assert swept.left_out == {
        f"ONNX Runtime fp32, 32 x 48, batch {batch}": (
            "RuntimeError: no such operation: Frobnicate"
        )
        for batch in (2, 3)
    }
    assert len(tries) == 1, "what failed once is not tried again for another batch"
    assert len(heard) == 6
    autotune.write_results(tmp_path / "new" / "out", swept, swept.points[0], plan)
    told = (tmp_path / "new" / "out" / "points.md").read_text()
    assert "- left out: ONNX Runtime fp32, 32 x 48, batch 3: RuntimeError" in told


def test_numbers_that_are_none_are_no_answers(run, monkeypatch):
    def poisoned(proto):
        return made_in.CompiledGraph(
            lambda image: torch.full((len(image), 3), torch.nan).numpy()
        )

    monkeypatch.setattr(made_in, "_onnx", poisoned)
    swept = autotune.sweep(run, small(ways=("torch", "onnx")), quiet)
    assert list(swept.left_out.values()) == ["its logits are not finite numbers"]


def test_an_interrupt_keeps_what_was_measured(run, tmp_path, monkeypatch, capsys):
    def interrupted(proto):
        raise KeyboardInterrupt

    monkeypatch.setattr(made_in, "_onnx", interrupted)
    out = tmp_path / "out"
    words = ["--ways", "torch", "onnx", "openvino", "--merge", "0", "-b", "2"]
    command = ["tune-speed", str(run), *words, "--rounds", "1", "--out", str(out)]
    assert main(command) == 130
    said = capsys.readouterr()
    assert "stopped by the keyboard" in said.err
    assert "chosen: torch fp32" in said.out
    kept = json.loads((out / "points.json").read_text())
    assert [row["runtime"] for row in kept["points"]] == ["torch"]
    assert list(kept["left_out"].values()) == ["stopped before it was measured"] * 2
    assert (out / "points.png").read_bytes().startswith(b"\x89PNG")


def test_points_are_on_the_disk_while_it_goes_on(run, tmp_path):
    """Killed without a word, it has left what it measured."""
    out = tmp_path / "out"
    words = ["--ways", "torch", "--merge", "0", "1", "2", "3", "--rounds", "2"]
    command = ["tune-speed", str(run), *words, "--out", str(out), "--minutes", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vitral", *command, "-b", *map(str, range(1, 200))],
        env={"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        late = time.monotonic() + 120
        while not (out / "points.json").is_file() and time.monotonic() < late:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = json.loads((out / "points.json").read_text())
    assert 1 <= len(kept["points"]) < 200
    assert kept["points"][0]["merge"] == 0


def test_the_time_is_up_while_images_are_scored(run):
    # The package's own `sweep` is the function.
    module = importlib.import_module("vitral.autotune.sweep")
    opened = open_run(run)
    dataset = autotune.open_images(opened, "val")
    pictures = SweepImages(opened, dataset, split="val", images=5, seed=0)
    first = Candidate(image_size=(32, 48))
    bench = module._Measurer(opened, pictures, first, spec=InferenceSpec(), rounds=1)
    other = Candidate(image_size=(32, 48), merge=1)
    with pytest.raises(module._BudgetExceededError, match="not finished within 7 min"):
        bench.measure(other, 0.0, 7.0)
    found = bench.measure(other, time.monotonic() + 600, 7.0)
    assert found.candidate == other


def test_no_graph_outlives_its_turn(run, monkeypatch):
    made: list[weakref.ref] = []
    make = autotune.CandidateBuilder.make
    alive: list[int] = []

    def counted(self, candidate):
        alive.append(sum(one() is not None for one in made))
        found = make(self, candidate)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(autotune.CandidateBuilder, "make", counted)
    plan = small(ways=("torch", "onnx"), merges=(0, 1, 2), batches=(2, 3))
    autotune.sweep(run, plan, quiet)
    assert len(made) == 6
    # The first stays, for it is timed beside every other.
    assert alive == [0] + [1] * 5


def test_a_function_is_traced_once(run, monkeypatch):
    traced = []
    trace = made_in.to_onnx

    def counted(model, **settings):
        traced.append(model.config.merge_rates)
        return trace(model, **settings)

    monkeypatch.setattr(made_in, "to_onnx", counted)
    ways = ("onnx", "openvino", "openvino-bf16", "openvino-int8")
    plan = small(ways=ways, merges=(0, 1), merge_schedules=("every_fourth",))
    swept = autotune.sweep(run, plan, quiet)
    assert traced == [(0, 0, 0), (0, 4, 0)]
    assert len(swept.points) == 1 + 2 * 4
    assert not swept.left_out


def test_the_batch_has_as_many_images_as_asked(run):
    opened = open_run(run)
    dataset = autotune.open_images(opened, "val")
    pictures = SweepImages(opened, dataset, split="val", images=5, seed=0)
    found = pictures.batch((32, 48), 12)
    assert found.shape == (12, 3, 32, 48)
    assert torch.equal(found[:5], found[5:10])
    assert torch.equal(found[:2], pictures.load_scored((32, 48))[0][0][:2])


def test_a_run_that_merges_by_itself_is_the_first_way(run, monkeypatch):
    opened = open_run(run, merge=2, merge_schedule="decreasing")
    plan = small(ways=("torch",), merges=(0, 1))
    first, *rest = autotune.make_candidates(plan, opened)
    assert (first.merge, first.merge_schedule) == (2, "decreasing")
    assert [one.merge for one in rest] == [0, 1]


def test_an_exported_file_is_refused(run, tmp_path, capsys):
    file = tmp_path / "model.onnx"
    assert main(["export", str(run), str(file)]) == 0
    capsys.readouterr()
    assert main(["tune-speed", str(file)]) == 2
    said = capsys.readouterr().err
    assert "is exported already" in said
    assert "give the run that it was exported from" in said
    assert main(["tune-speed", str(run / "model")]) == 2
    assert "a model without its run" in capsys.readouterr().err


def test_a_busy_machine_is_told(run):
    swept = autotune.sweep(run, small(ways=("torch",), batches=(1, 2)), quiet)
    first, other = swept.points
    steady = [first, a_point()]
    for points, told in ((steady, False), ([first, other], True)):
        object.__setattr__(points[0], "first_ms", 1.0)
        object.__setattr__(points[1], "first_ms", 1.2 if points is steady else 2.0)
        swept.points = points
        lines = autotune.caution_lines(swept, None, small())
        assert any("The machine was busy" in line for line in lines) is told


def test_a_plan_names_something():
    with pytest.raises(ConfigError, match="`batches` of a plan must name at least one"):
        SweepPlan(batches=())
