"""Tasks of another package, found by their entry point, go through every verb."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server_process import request, serving

TOYS = Path(__file__).with_name("toys")
SOURCE = Path(__file__).parents[1] / "src"
TRAIN = [
    "--model",
    "vit_mu16",
    "--set",
    "depth=2",
    "patch_size=8",
    "--image-size",
    "24",
    "--epochs",
    "40",
    "--batch-size",
    "32",
    "--lr",
    "0.003",
    "--val",
    "0.2",
    "--test",
    "0.2",
    "--device",
    "cpu",
    "--flip",
    "0",
]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A folder of installed packages with both toys and their entry points."""
    folder = tmp_path_factory.mktemp("site")
    for file in TOYS.glob("toy_*.py"):
        shutil.copy(file, folder)
    about = folder / "toys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    points = "".join(f"{f.stem} = {f.stem}:TASK\n" for f in folder.glob("toy_*.py"))
    (about / "entry_points.txt").write_text(f"[vitral.tasks]\n{points}")
    return folder


def environment(package: Path) -> dict[str, str]:
    path = os.pathsep.join([str(package), str(SOURCE)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def vitral(package: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vitral", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(package),
        cwd=package.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def counted(package, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "count"
    shown = vitral(
        package, "train", "squares:200", "--out", str(out), *TRAIN, "-j", "1"
    )
    assert shown.startswith("task: count, 1 output\n")
    return out


def test_training_stores_the_task_and_learns(counted):
    model = json.loads((counted / "model" / "config.json").read_text())["vitral"]
    assert model["task"] == json.loads((counted / "config.json").read_text())["task"]
    test = json.loads((counted / "predictions" / "test.json").read_text())
    assert (test["measure"], test["n_unreadable"]) == ("error", 0)
    assert test["value"] < 1.0  # always the mean, 2.5, is 1.5 squares wrong


def test_a_finished_run_resumes_as_it_is(package, counted):
    before = (counted / "metrics.jsonl").read_bytes()
    words = ["train", "squares:200", "--out", str(counted), *TRAIN, "--resume"]
    assert "squares wrong" not in vitral(package, *words)
    assert (counted / "metrics.jsonl").read_bytes().startswith(before)


def test_evaluation_and_report_show_the_number(package, counted):
    error = json.loads((counted / "predictions" / "test.json").read_text())["value"]
    shown = vitral(package, "eval", str(counted), "--split", "test", "--device", "cpu")
    assert shown.startswith(f"test: error {error:.4g} on ")
    vitral(package, "report", str(counted))
    page = (counted / "report.html").read_text()
    assert f">{error:.4g}<" in page
    assert "Worst errors" not in page


def draw_files(package: Path, folder: Path, ids: range) -> list[Path]:
    """The pictures of some examples as files."""
    sys.path.insert(0, str(package))
    try:
        from toy_count import Draw
    finally:
        sys.path.remove(str(package))
    from vitral.data import Example

    folder.mkdir(exist_ok=True)
    for i in ids:
        Draw()(Example(id=f"{i:04d}", target=i % 6)).image.save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def test_prediction_export_and_server_answer_the_same(package, counted, tmp_path):
    files = draw_files(package, tmp_path / "in", range(6))
    out = tmp_path / "rows.csv"
    words = ["predict", str(counted), str(tmp_path / "in"), "--device", "cpu"]
    vitral(package, *words, "--out", str(out), "-j", "1")
    lines = out.read_text().splitlines()
    assert lines[0] == "path,squares,error"
    rows = {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:]}
    assert len(rows) == 6
    exported = tmp_path / "model.onnx"
    vitral(package, "export", str(counted), str(exported))
    words = ["predict", str(exported), str(tmp_path / "in")]
    shown = [json.loads(line) for line in vitral(package, *words).splitlines()]
    for row in shown:
        assert row["squares"] == pytest.approx(rows[row["path"]], abs=1e-3)
    with serving(counted, packages=package) as server:
        reply = server.ask(request(files[0].read_bytes()))
    answer = json.loads(reply.body)
    assert answer["squares"] == pytest.approx(rows[str(files[0])], abs=1e-4)


@pytest.fixture(scope="module")
def masked(package, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mask"
    words = ["train", "masks:240", "--task", "mask", "--out", str(out), *TRAIN]
    words += ["--epochs", "80", "--batch-size", "16", "--accumulate", "2"]
    assert vitral(package, *words).startswith("task: mask, 36 outputs\n")
    return out


def test_a_mask_moves_with_its_picture_and_is_learned(masked):
    """The third of three sizes is no square, and pictures are mirrored."""
    test = json.loads((masked / "predictions" / "test.json").read_text())
    assert test["value"] > 0.5  # one of nine places at random: 0.11


def test_two_ranks_measure_what_one_process_does(package, masked, tmp_path):
    words = ["eval", str(masked), "--split", "test", "--device", "cpu", "--out"]
    vitral(package, *words, str(tmp_path / "one"))
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*run, "--standalone", "-m", "vitral", *words, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(package),
        cwd=package.parent,
    )
    assert done.returncode == 0, done.stderr
    one, two = (tmp_path / name / "test.json" for name in ("one", "two"))
    assert one.read_text() == two.read_text()


def test_answers_are_pictures_of_the_originals_size(package, masked, tmp_path):
    from PIL import Image

    folder = tmp_path / "in"
    folder.mkdir()
    sizes = {(24, 24), (48, 24), (36, 60)}
    for number, (width, height) in enumerate(sorted(sizes)):
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
    words = ["predict", str(masked), str(folder), "--device", "cpu"]
    vitral(package, *words, "--out", str(tmp_path / "rows.jsonl"))
    files = sorted((tmp_path / "rows-files").rglob("*.png"))
    assert [file.name for file in files] == ["0.png.png", "1.png.png", "2.png.png"]
    for file in files:
        with Image.open(file) as mask:
            sizes.discard(mask.size)
    assert sizes == set()


def test_a_toy_is_small():
    for file in TOYS.glob("*.py"):
        assert len(file.read_text().splitlines()) <= 120


def test_a_task_in_the_working_folder_does_not_run(package, tmp_path):
    """What lies in the folder where a command is started is not looked at."""
    shutil.copytree(package, tmp_path / "here")
    (tmp_path / "here" / "toy_count.py").write_text("raise SystemExit(9)")
    done = subprocess.run(
        [sys.executable, "-m", "vitral", "train", "squares:9", "--out", "run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        cwd=tmp_path / "here",
    )
    assert done.returncode == 2
    assert "neither a folder, a table nor a known name" in done.stderr
