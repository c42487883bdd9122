"""The operating point: choice by hand, timing in turns, and a real sweep of a run."""

import csv
import json
import re
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from vitral import autotune, plots
from vitral.autotune import Candidate, Point, SweepPlan, choose, frontier
from vitral.cli import main
from vitral.errors import ConfigError, DataError
from vitral.plots.operating_points import OperatingPoint, operating_points
from vitral.tasks.classification.labels import ClassLabels
from vitral.workflows.run import open_run


def a_point(speedup: float, accuracy: float, drop: float, **changes) -> Point:
    return Point(
        candidate=Candidate(image_size=(48, 80), **changes),
        ms=12.0 / speedup,
        ms_range=(11.0 / speedup, 13.0 / speedup),
        first_ms=12.0,
        speedup=speedup,
        accuracy=accuracy,
        interval=(accuracy - 0.1, accuracy + 0.05),
        drop=drop,
        drop_interval=(drop - 1, drop + 1.5),
        images=40,
    )


FIRST = a_point(1.0, 0.90, 0.0)
GRAPH = a_point(2.0, 0.90, 0.0, runtime="openvino")
MERGED = a_point(2.5, 0.895, 0.5, runtime="openvino", merge=8)
SMALL = a_point(4.0, 0.85, 5.0, runtime="openvino", precision="int8", batch=8)
POINTS = [FIRST, GRAPH, MERGED, SMALL]


def test_the_choice():
    assert choose(POINTS, 0.5, None) is MERGED
    assert choose(POINTS, 0.4, None) is GRAPH
    assert choose(POINTS, 5.0, None) is SMALL
    # 12, 6, 4.8 and 3 ms: of equally accurate ones the faster.
    assert choose(POINTS, None, 12.0) is GRAPH
    assert choose(POINTS, None, 5.0) is MERGED
    assert choose(POINTS, 0.5, 4.8) is MERGED
    assert choose(POINTS, 0.4, 5.0) is None
    assert choose(POINTS, None, 2.9) is None


def test_the_points_that_none_beats():
    slower = a_point(0.5, 0.90, 0.0, runtime="onnx")
    assert frontier([*POINTS, slower]) == [SMALL, MERGED, GRAPH]


def words(point: Point, **changes) -> list[str]:
    settings = {"run_size": (48, 80), "max_drop": 0.5, **changes}
    return autotune.commands(point, "my run", **settings)


def test_the_commands_of_a_point():
    every = {"merge": 8, "merge_schedule": "every_fourth"}
    spread = "--merge 8 --merge-schedule every_fourth"
    assert words(FIRST) == ["vitral predict 'my run' IMAGES... --batch-size 1"]
    torch_merging = a_point(1.5, 0.9, 0.0, batch=3, **every)
    assert words(torch_merging) == [
        f"vitral predict 'my run' IMAGES... {spread} --batch-size 3"
    ]
    assert words(a_point(2.0, 0.9, 0.0, runtime="onnx", **every)) == [
        f"vitral export 'my run' model.onnx --static {spread}",
        "vitral predict model.onnx IMAGES... --batch-size 1",
    ]
    start = "vitral export 'my run' model_openvino --to openvino"
    assert words(SMALL)[0] == f"{start} --int8 --static"
    assert words(SMALL, run_merge=4)[0] == f"{start} --int8 --static --merge 0"
    assert words(SMALL, max_drop=3.0)[0] == f"{start} --int8 --max-drop 3 --static"
    # Chosen by time alone: it lost 5 points, and perhaps 6.5.
    assert words(SMALL, max_drop=None)[0] == f"{start} --int8 --max-drop 7 --static"
    assert words(MERGED) == [
        f"{start} --static --merge 8 --merge-schedule constant",
        "vitral predict model_openvino IMAGES... --batch-size 1",
    ]
    other, then = words(SMALL, run_size=(96, 96))
    assert "image_size=(48, 80)" in other
    assert 'precision="int8"' in other
    assert then == "vitral predict model_openvino IMAGES... --batch-size 8"
    (mirrored,) = words(FIRST, views="flip")
    assert 'run.extra["eval_views"] = "flip"' in mirrored
    assert mirrored.endswith(" IMAGES...")


def test_a_table_names_the_chosen_one():
    rows = autotune.as_markdown(POINTS, MERGED).splitlines()
    assert rows[2].startswith("| OpenVINO int8, 48 x 80, batch 8 | 3.00 (2.75 to 3.25)")
    merged = "| **OpenVINO fp32, merge 8 constant, 48 x 80, batch 1** | 4.80"
    assert rows[3].startswith(merged)
    assert "| 2.50 | 89.5 % (79.5 to 94.5) | +0.50 (-0.50 to +2.00) |" in rows[3]


class Waiting(nn.Module):
    """Notes whose turn it was."""

    def __init__(self, name: str, turns: list[str]) -> None:
        super().__init__()
        self.name, self.turns = name, turns

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.turns.append(self.name)
        return image


def test_passes_come_in_turns_and_the_first_does_not_count():
    turns: list[str] = []
    one, other = Waiting("a", turns), Waiting("b", turns)
    found = autotune.time_pair(
        (one, torch.zeros(2, 3)), (other, torch.zeros(5, 3)), 4, 0.0
    )
    assert turns == ["a", "a", "b", "b"] + ["a", "b"] * 4
    assert found.shape == (4, 2)
    assert (found > 0).all()


def test_a_turn_of_quick_passes_has_many():
    turns: list[str] = []
    one, other = Waiting("a", turns), Sleeping()
    found = autotune.time_pair(
        (one, torch.zeros(2, 3)), (other, torch.zeros(5, 3)), 3, 0.03
    )
    # Some microseconds a pass beside one of 40 ms.
    assert len(turns) > 3 * 20
    assert other.passes == 2 + 3
    assert 0.008 <= found[:, 1].min() < 0.03


class Sleeping(nn.Module):
    """Takes 40 ms."""

    passes = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        time.sleep(0.04)
        return image


def test_a_sweep_scores_as_eval_does(run_copy, tmp_path, capsys):
    words = ["--ways", "torch", "--merge", "0", "2", "-b", "1", "3", "--rounds", "2"]
    words += ["--merge-schedule", "decreasing", "every_fourth", "--minutes", "0"]
    out = tmp_path / "out"
    command = [
        "tune-speed",
        str(run_copy),
        *words,
        "--max-drop",
        "100",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "next: vitral predict" in printed
    assert "chosen on them" in printed
    kept = json.loads((out / "points.json").read_text())
    tried = [
        (row["merge"], row["merge_schedule"], row["batch"]) for row in kept["points"]
    ]
    assert tried == [
        (0, "constant", 1),
        (0, "constant", 3),
        (2, "decreasing", 1),
        (2, "decreasing", 3),
        (2, "every_fourth", 1),
        (2, "every_fourth", 3),
    ]
    stored = json.loads((run_copy / "predictions" / "val.json").read_text())
    first = kept["points"][0]
    assert first["accuracy"] == pytest.approx(stored["top1"], abs=1e-5)
    assert first["images"] == stored["n"]
    assert first["drop"] == 0
    for place, schedule in ((2, "decreasing"), (4, "every_fourth")):
        spread = ["--merge", "2", "--merge-schedule", schedule]
        assert main(["eval", str(run_copy), "--split", "val", *spread]) == 0
        name = f"val-merge2-{schedule}.json"
        merged = json.loads((run_copy / "evaluations" / name).read_text())["top1"]
        assert kept["points"][place]["accuracy"] == pytest.approx(merged, abs=1e-5)
    rows = list(csv.DictReader((out / "points.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert (out / "points.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_within_the_bound_is_exit_6_with_a_table(run, tmp_path, capsys):
    words = ["--ways", "torch", "--merge", "0", "-b", "2", "--rounds", "1"]
    out = tmp_path / "out"
    command = ["tune-speed", str(run), *words, "--max-ms", "1e-6", "--out", str(out)]
    assert main(command) == 6
    assert "None of 1 ways takes at most 1e-06 ms an image" in capsys.readouterr().err
    assert json.loads((out / "points.json").read_text())["chosen"] is None


def test_time_runs_out_with_the_rest_left_out(run):
    plan = SweepPlan(
        ways=("torch",), merges=(0, 2), batches=(1,), rounds=1, minutes=1e-9
    )
    swept = autotune.sweep(run, plan)
    assert [point.candidate.merge for point in swept.points] == [0]
    assert len(swept.left_out) == 1
    assert all("not begun" in reason for reason in swept.left_out.values())


def test_graphs_answer_as_the_model_does(run):
    model = open_run(run).model.eval()
    size = open_run(run).preprocess.image_size
    images = torch.randn(5, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for runtime in ("onnx", "openvino"):
            for merge, schedule in ((0, "constant"), (2, "every_fourth")):
                asked = {"merge": merge, "merge_schedule": schedule, "image_size": size}
                private = autotune.prepare(Candidate(**asked), model, lambda size: [])
                assert private.config.merge_rates == (0, 4 * merge, 0)
                made = autotune.prepare(
                    Candidate(runtime=runtime, **asked), model, lambda size: []
                )
                found, wanted = made(images), private(images)
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert model.config.merge_rate == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--split", "left"], "has no split `left`, it has"),
        (["--ways", "tensorrt"], "`--ways` takes torch, onnx, .*got `tensorrt`"),
        (["--images", "0"], "`--images` must be at least 1: got 0"),
        (["--merge", "0", "-4"], "`--merge` must be at least 0: got -4"),
        (["-b", "0"], "`--batch-size` must be at least 1: got 0"),
        (["--minutes", "-1"], "`--minutes` must be at least 0: got -1"),
        (["--out", __file__], "test_autotune.py is a file: `--out` names a folder"),
        (["--merge-schedule", "fourth"], "invalid choice: 'fourth'"),
        (
            ["--merge", "0", "--merge-schedule", "decreasing"],
            "with `--merge 0` alone none are: name a rate above 0",
        ),
    ],
)
def test_what_is_refused(run, words, sentence, capsys):
    assert main(["tune-speed", str(run), *words]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert re.search(sentence, printed)


def test_the_figure_says_what_it_shows():
    groups = {
        "torch fp32": [OperatingPoint(12.0, 0.9, "")],
        "int8": [OperatingPoint(3.0, 0.88, "x", True)],
    }
    plot = operating_points(groups, note="accuracy of 40 images of val")
    assert "from 3.00 ms on. Chosen: int8, x." in plot.alt
    assert plots.to_png(plot.figure).startswith(b"\x89PNG")
    with pytest.raises(DataError, match="shows 1 to 5 groups: got 0"):
        operating_points({})


def test_a_multi_label_run_is_refused(run, monkeypatch):
    several = partial(ClassLabels, multi_label=True)
    monkeypatch.setattr(
        ClassLabels, "from_extra", lambda names, extra: several(names=names)
    )
    with pytest.raises(ConfigError, match="an image has several labels, as in this"):
        autotune.sweep(run, SweepPlan())


def test_quartiles_are_of_the_rounds():
    from vitral.autotune.sweep import _point

    times = np.array([[0.010, 0.005], [0.010, 0.004], [0.020, 0.005]])
    before = np.array([True, True, True, False])
    right = np.array([True, False, True, True])
    found = _point(Candidate(image_size=(48, 80)), times, right, before)
    assert found.ms == pytest.approx(5.0)
    assert found.speedup == pytest.approx(2.5)
    assert found.drop == 0
    assert found.drop_interval[0] < 0 < found.drop_interval[1]
