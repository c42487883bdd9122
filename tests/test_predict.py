"""`vitral predict --out`: parts, resuming, refusals, formats, ranks."""

import contextlib
import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import vitral as vt
from helpers import TINY, captured_log, randomise
from photos import photo
from rank_server import wait_until
from torchrun import start_ranks, wait_for
from vitral.cli import main
from vitral.data import Preprocess
from vitral.errors import ConfigError, MissingExtraError
from vitral.models import ViT, ViTConfig
from vitral.workflows import open_run
from vitral.workflows.predict import job, predict
from vitral.workflows.predict.find_files import find_files
from vitral.workflows.predict.job import BATCHES_PER_PART
from vitral.workflows.predict.predict import predict_files
from vitral.workflows.predict.writers import resolve_format

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = ("a,b.png", 'quo"te.png', "line\nbreak.png", "größe.png", "日本.png")
CLASSES = tuple(f"kind {number}" for number in range(TINY["num_classes"]))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "model"
    network = ViT(ViTConfig(**TINY))
    randomise(network)
    vt.save(folder, network, Preprocess(image_size=(48, 80)), classes=CLASSES)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """53 images in two folders with the same names, 3 of them unreadable."""
    root = tmp_path_factory.mktemp("many") / "in"
    for label, name in enumerate(("one", "two")):
        (root / name).mkdir(parents=True)
        for number in range(22):
            photo(label, number).save(root / name / f"{number}.png")
    for number, name in enumerate(ODD):
        photo(2, number).save(root / name)
    photo(2, 9).resize((1, 1)).save(root / "pixel.png")
    (root / "empty.png").touch()
    (root / "text.jpg").write_text("no image")
    os.mkfifo(root / "pipe.png")
    (root / "one" / "cut.png").write_bytes((root / "one" / "1.png").read_bytes()[:99])
    (root / "notes.txt").touch()
    return root


FILES = 44 + len(ODD) + 1 + 3
FLAGS = ("--batch-size", "3", "--top", "2")


def predicted(model: Path, images: Path, out: Path, *more: str) -> int:
    words = ["predict", str(model), str(images), "--out", str(out), *FLAGS]
    return main([*words, "--workers", "0", *more])


@pytest.fixture(scope="module")
def whole(model, images, tmp_path_factory) -> bytes:
    """The lines of an unbroken run."""
    out = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "BATCHES_PER_PART", 2)
        assert predicted(model, images, out) == 3
    return out.read_bytes()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch) -> None:
    monkeypatch.setattr(job, "BATCHES_PER_PART", 2)


def test_rows_are_those_of_the_terminal(model, images, whole, capsys):
    words = ["predict", str(model), str(images), *FLAGS, "--workers", "0"]
    assert main(words) == 3
    told = capsys.readouterr()
    assert told.out.encode() == whole
    assert f"3 of {FILES} files could not be read" in told.err
    rows = [json.loads(line) for line in whole.splitlines()]
    # A FIFO is no file, so nobody waits for it.
    assert [row["path"] for row in rows] == sorted(
        (str(p) for p in images.rglob("*.*g") if p.is_file()), key=lambda p: Path(p)
    )
    assert [Path(row["path"]).name for row in rows if "error" in row] == [
        "empty.png",
        "cut.png",
        "text.jpg",
    ]
    opened = open_run(model)
    for row in rows[::7]:
        (answer,) = opened.predict([row["path"]])
        assert row["label"] == answer.label
        best = sorted(answer.probabilities, key=answer.probabilities.get)[::-1]
        assert list(row["probabilities"]) == best[:2]
        assert row["confidence"] == pytest.approx(answer.confidence, abs=1e-5)


def test_what_is_said_and_left(model, images, tmp_path, capsys, whole):
    out = tmp_path / "answers.jsonl"
    assert predicted(model, images, out) == 3
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith(f"{FILES} files, 3 unreadable: ")
    assert "% of the time waiting for data" in lines[0]
    assert lines[1:] == [
        f"files: {out}",
        f"next: vitral inspect {model} FILES --out DIR",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.plan.json",
    ]
    plan = json.loads((tmp_path / "answers.jsonl.plan.json").read_text())
    assert (plan["files"], plan["unreadable"]) == (FILES, 3)
    # Again: nothing is left to do.
    before = out.stat()
    assert predicted(model, images, out) == 3
    assert "0 of them answered now" in capsys.readouterr().out
    assert out.stat() == before
    out.unlink()
    assert predicted(model, images, out) == 3
    assert out.read_bytes() == whole


def test_csv(model, images, whole, tmp_path):
    out = tmp_path / "answers.csv"
    assert predicted(model, images, out) == 3
    with out.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    expected = [json.loads(line) for line in whole.splitlines()]
    for row, other in zip(rows, expected, strict=True):
        assert row["path"] == other["path"]
        assert row["label"] == other.get("label", "")
        assert row["error"] == other.get("error", "")
        share = other.get("confidence")
        assert row["confidence"] == ("" if share is None else f"{share:.6g}")


def test_parquet_in_a_file_and_in_parts(model, images, whole, tmp_path):
    expected = [json.loads(line) for line in whole.splitlines()]
    assert predicted(model, images, tmp_path / "answers.parquet") == 3
    assert predicted(model, images, tmp_path / "f", "--format", "parquet") == 3
    parts = sorted((tmp_path / "f").glob("part-*.parquet"))
    assert len(parts) == -(-FILES // 6)
    tables = [pyarrow.parquet.read_table(tmp_path / "answers.parquet")]
    tables.append(pyarrow.concat_tables(map(pyarrow.parquet.read_table, parts)))
    for table in tables:
        for row, other in zip(table.to_pylist(), expected, strict=True):
            assert row["path"] == other["path"]
            assert row["label"] == other.get("label")
            assert row["error"] == other.get("error")
            assert row["confidence"] == other.get("confidence")
            assert dict(row["probabilities"] or {}) == other.get("probabilities", {})


def test_parquet_needs_its_package_and_a_file(model, images, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"give `out=FILE.parquet`"):
        resolve_format("parquet", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vitral\[hf\]'"):
        predict_files(model, images, tmp_path / "answers.parquet")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_parts(model, images, whole, tmp_path, capsys):
    out = tmp_path / "answers"
    assert predicted(model, images, out) == 3
    parts = sorted(out.glob("part-*.jsonl"))
    assert b"".join(part.read_bytes() for part in parts) == whole
    assert {p.name for p in out.iterdir()} == {"plan.json", *(p.name for p in parts)}
    parts[3].unlink()
    assert predicted(model, images, out) == 3
    assert "6 of them answered now" in capsys.readouterr().out
    assert b"".join(part.read_bytes() for part in parts) == whole


def test_a_name_that_is_no_utf8(model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    photo(0, 1).save(folder / "1.png")
    os.rename(folder / "1.png", os.fsencode(folder) + b"/\xff.png")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert predicted(model, folder, tmp_path / name) == 0
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert Path(row["path"]).is_file()
    assert "\\udcff.png" in (tmp_path / "a.csv").read_text(encoding="utf-8")


# Kills


def forked(work, *, patience: float = 60.0, kill_after: float | None = None) -> int:
    """What `work` returns, in a process of its own; negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            code = work()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def killed_before(step: int, work):
    """Do `work`, and die before its change number `step` of the disk."""
    seen = [0]

    def hook(event: str, arguments) -> None:
        changes = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}
        wrote = event == "open" and set("wax+") & set(str(arguments[1] or ""))
        if event in changes or wrote:
            if seen[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1

    def run() -> int:
        sys.addaudithook(hook)
        return work()

    return run


def test_killed_before_each_change_of_the_disk(model, images, whole, tmp_path):
    """In turn at all that an unbroken run makes, of one file and of a folder."""
    for name in ("answers.jsonl", "answers"):
        for step in range(1000):
            out = tmp_path / str(step) / name
            work = partial(predicted, model, images, out)
            first = code = forked(killed_before(step, work))
            if first == -signal.SIGKILL:
                if out.is_file():  # never half of it
                    assert out.read_bytes() == whole
                code = forked(work)
            assert code == 3
            parts = [out] if out.is_file() else sorted(out.glob("part-*"))
            assert b"".join(part.read_bytes() for part in parts) == whole
            left = {p.name for p in out.parent.iterdir()} - {name}
            assert left == ({f"{name}.plan.json"} if out.is_file() else set())
            shutil.rmtree(out.parent)
            if first == 3:
                break
        assert step > 20  # or the changes were not seen


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_time(model, images, whole, tmp_path, seed):
    out = tmp_path / "answers.jsonl"
    chance = random.Random(seed)
    for _ in range(3):
        forked(
            lambda: predicted(model, images, out), kill_after=chance.uniform(0.01, 0.4)
        )
    assert forked(lambda: predicted(model, images, out)) == 3
    assert out.read_bytes() == whole


# Refusals


def begun(model: Path, images: Path, out: Path) -> None:
    """Some parts, then a kill."""
    work = killed_before(14, lambda: predicted(model, images, out))
    assert forked(work) == -signal.SIGKILL
    assert list(out.with_name(f"{out.name}.parts").glob("part-*"))


def test_other_settings_or_weights_are_refused(model, images, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    begun(model, images, out)
    for flags, said in (
        (["--top", "3"], "begun with `--top` 2 and cannot go on with 3"),
        (["--batch-size", "4"], "begun with `batch` 3 and cannot go on with 4"),
    ):
        assert predicted(model, images, out, *flags) == 2
        assert said in capsys.readouterr().err
    other = tmp_path / "other"
    network = ViT(ViTConfig(**TINY))
    randomise(network, seed=7)
    vt.save(other, network, Preprocess(image_size=(48, 80)), classes=CLASSES)
    assert predicted(other, images, out) == 2
    assert "begun with `model` another one and" in capsys.readouterr().err
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    assert predicted(moved, images, out) == 3


@pytest.mark.parametrize("change", ["gone", "new", "changed"])
def test_other_files_are_refused(model, images, whole, tmp_path, capsys, change):
    folder, out = tmp_path / "in", tmp_path / "answers.jsonl"
    shutil.copytree(images, folder, ignore=shutil.ignore_patterns("pipe*"))
    begun(model, folder, out)
    file = folder / "two" / "3.png"
    about = file.stat()
    if change == "gone":
        kept = file.rename(tmp_path / "kept.png")
        said = f"{file} is gone since"
    elif change == "new":
        file = folder / "two" / "3a.png"
        shutil.copy(folder / "two" / "3.png", file)
        said = f"{file} is new or in another place since"
    else:
        os.utime(file, ns=(0, 10))
        said = f"{file} has changed since"
    assert predicted(model, folder, out) == 2
    assert said in capsys.readouterr().err
    if change == "gone":
        kept.rename(file)
    elif change == "new":
        file.unlink()
    else:
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert predicted(model, folder, out) == 3
    assert out.read_bytes().replace(str(folder).encode(), str(images).encode()) == whole
    (folder / "one" / "2.png").unlink()
    assert predicted(model, folder, out) == 2
    assert "is complete, but not for these files" in capsys.readouterr().err


def test_a_file_that_goes_while_others_are_answered(model, images, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "answers.jsonl"
    shutil.copytree(images, folder, ignore=shutil.ignore_patterns("pipe*"))

    def remove(*_: object) -> None:
        (folder / "two" / "21.png").unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "vitral.workflows.predict.predict._ProgressCounter.add", remove_once(remove)
        )
        made = predict_files(model, folder, out, batch_size=3, workers=0)
    rows = {row["path"]: row for row in map(json.loads, out.read_text().splitlines())}
    row = rows[str(folder / "two" / "21.png")]
    assert row["error"] == "the file cannot be read: No such file or directory"
    assert (made.files, made.unreadable) == (FILES, 4)


def remove_once(remove):
    left = [remove]

    def called(*arguments: object) -> None:
        if left:
            left.pop()()

    return called


def test_places_that_are_refused(model, images, tmp_path, capsys):
    (tmp_path / "answers.jsonl").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".part-1.7.tmp").touch()
    (tmp_path / "mine" / "diary.txt").touch()
    (tmp_path / "word").touch()
    (tmp_path / "f.csv").mkdir()
    for name, flags, said in (
        ("answers.jsonl", [], "is already there, without the answers.jsonl.plan.json"),
        ("mine", [], "holds something else, such as diary.txt"),
        ("word", [], "is a file: `--out` names"),
        ("f.csv", [], "is a folder: `--out` names"),
        ("a.csv", ["--format", "jsonl"], "ends like csv, but `--format jsonl`"),
        ("a.csv", ["--workers", "-1"], "`--workers` must be at least 0: got -1"),
    ):
        assert predicted(model, images, tmp_path / name, *flags) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "answers.jsonl").read_text() == "mine"
    assert (tmp_path / "mine" / ".part-1.7.tmp").exists()
    out = tmp_path / "b.jsonl"
    out.with_name("b.jsonl.plan.json").write_text("{}")
    assert predicted(model, images, out) == 2
    assert "is no plan of answers" in capsys.readouterr().err


def test_a_second_run_into_the_same_place(model, images, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    held = tmp_path / "held"

    def slow() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "vitral.workflows.predict.predict._ProgressCounter.add",
                lambda *_: (held.touch(), time.sleep(60)),
            )
            return predicted(model, images, out)

    child = os.fork()
    if child == 0:
        slow()
        os._exit(0)
    try:
        wait_until(held.exists, 60)
        assert predicted(model, images, out) == 2
        said = capsys.readouterr().err
        assert f"answers.jsonl.parts is in use by process {child} on" in said
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert predicted(model, images, out) == 3


def test_a_full_disk(model, images, whole, tmp_path, capsys):
    """A limit on the size of files stands for it; what was complete goes on later."""
    out = tmp_path / "answers.jsonl"

    def limited() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # Larger than a part and the listing, smaller than the whole.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - 10,) * 2)
        return predicted(model, images, out)

    assert forked(limited) == 4
    assert not out.exists()
    parts = tmp_path / "answers.jsonl.parts"
    assert len(list(parts.glob("part-0*"))) == -(-FILES // 6)
    assert predicted(model, images, out) == 3
    assert "0 of them answered now" in capsys.readouterr().out
    assert out.read_bytes() == whole


# Workers, ranks, memory


def test_workers_read_the_same(model, images, whole, tmp_path):
    out = tmp_path / "answers.jsonl"
    assert predicted(model, images, out, "--workers", "2") == 3
    assert out.read_bytes() == whole


def streamed(model: Path, images: Path, out: Path) -> int:
    """As `predicted` on two processors, in this process and its own threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return main(["predict", str(model), str(images), "--out", str(out), *FLAGS])
    finally:
        torch.set_num_threads(before)


def test_two_streams_write_what_one_writes(model, images, whole, tmp_path, monkeypatch):
    numbers: list[int] = []
    in_streams = predict.run_in_threads

    def noted(work, parts, number: int) -> None:
        numbers.append(number)
        in_streams(work, parts, number)

    monkeypatch.setattr(predict, "run_in_threads", noted)
    out = tmp_path / "answers.jsonl"
    assert streamed(model, images, out) == 3
    assert numbers == [2]
    assert out.read_bytes() == whole
    assert predicted(model, images, tmp_path / "with-workers.jsonl") == 3
    assert numbers == [2]


@pytest.mark.parametrize("seed", range(3))
def test_streams_killed_at_a_random_time(model, images, whole, tmp_path, seed):
    out = tmp_path / "answers.jsonl"
    chance = random.Random(seed)
    for _ in range(3):
        forked(
            lambda: streamed(model, images, out), kill_after=chance.uniform(0.02, 0.4)
        )
    assert forked(lambda: streamed(model, images, out)) == 3
    assert out.read_bytes() == whole


RANK = """
import os, sys, time
from vitral.cli import main
from vitral.workflows.predict import job, predict
job.BATCHES = 2
from_first = predict.broadcast_from_rank_zero
def told(work):
    result = from_first(work)
    time.sleep(LATE * int(os.environ["RANK"]))
    return result
predict.broadcast_from_rank_zero = told
remove_empty = predict.remove_empty_work_folder
def noted(job_paths):
    open("cleared-by-" + os.environ["RANK"], "x").close()
    remove_empty(job_paths)
predict.remove_empty_work_folder = noted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("late", [0, 4], ids=["together", "second-late"])
def test_two_ranks_write_what_one_process_writes(model, images, whole, tmp_path, late):
    """A rank that looks seconds later sees what the other has written meanwhile."""
    (tmp_path / "rank.py").write_text(RANK.replace("LATE", str(late)))
    out = tmp_path / "answers.jsonl"
    words = ["rank.py", "predict", str(model), str(images), "--out", str(out)]
    words += [*FLAGS, "--workers", "0", "--device", "cpu"]
    code, _, errors = wait_for(start_ranks(2, words, tmp_path))
    assert code != 0  # three files are unreadable, which torchrun calls a failure
    assert errors.count("3 of 53 files could not be read") == 1
    assert out.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.plan.json",
        "cleared-by-0",  # two that look and remove find what the other has removed
        "rank.py",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("start", range(40))
def test_two_ranks_that_start_again_and_again(model, images, whole, tmp_path, start):
    """One start in six failed beside busy processes when both removed the folder."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)
    ]
    try:
        test_two_ranks_write_what_one_process_writes(model, images, whole, tmp_path, 0)
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("used", [False, True], ids=["gone", "in-use"])
def test_another_start_is_at_the_folder_of_parts_first(
    model, images, whole, tmp_path, monkeypatch, used
):
    """It removes the folder, or begins in it, just before this start removes it."""
    out = tmp_path / "answers.jsonl"
    parts = tmp_path / "answers.jsonl.parts"
    rmdir = Path.rmdir

    def second(folder: Path) -> None:
        if used:
            (folder / "lock.json").touch()
        else:
            rmdir(folder)
        rmdir(folder)

    monkeypatch.setattr(Path, "rmdir", second)
    assert predicted(model, images, out) == 3
    assert out.read_bytes() == whole
    assert parts.exists() == used


def test_the_folder_of_parts_is_removed_before_it_is_locked(
    model, images, whole, tmp_path, monkeypatch
):
    """An earlier start that ends removes the empty folder of the next one."""
    create = predict.create_work_folder
    removed = []

    def create_and_lose(job_paths) -> None:
        create(job_paths)
        if not removed:
            removed.append(job_paths.work)
            job_paths.work.rmdir()

    monkeypatch.setattr(predict, "create_work_folder", create_and_lose)
    out = tmp_path / "answers.jsonl"
    assert predicted(model, images, out) == 3
    assert removed == [tmp_path / "answers.jsonl.parts"]
    assert out.read_bytes() == whole


def test_memory_stays_flat(model, tmp_path, monkeypatch):
    """20,000 images: more memory at the end than after a tenth is a leak."""
    monkeypatch.setattr(job, "BATCHES_PER_PART", BATCHES_PER_PART)
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.zeros((3, 5, 3), np.uint8)).save(folder / "0.png")
    for number in range(1, 20_000):
        os.link(folder / "0.png", folder / f"{number}.png")
    monkeypatch.setattr("vitral.workflows.run.predict_outputs", fast)
    resident = []

    def note(told, number: int, waited: float) -> None:
        told.count += number
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * resource.getpagesize() / 2**20)

    monkeypatch.setattr("vitral.workflows.predict.predict._ProgressCounter.add", note)
    predict_files(model, folder, tmp_path / "answers.jsonl", workers=0)
    assert len(resident) == 625
    assert resident[-1] - resident[62] < 10


def fast(network, pixels, _):
    return pixels.flatten(1)[:, : TINY["num_classes"]]


def test_the_list_of_a_folder_is_sorted_by_parts(tmp_path):
    for name in ("a/2.png", "a/b/1.png", "a.png", "a-1/0.png", "B/x.JPG", "c.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list(find_files([tmp_path])) == [
        p
        for p in sorted(tmp_path.rglob("*"))
        if p.suffix.lower() in (".png", ".jpg") and "loop" not in p.parts
    ]


def test_without_a_head(tmp_path, images):
    vt.save(
        tmp_path / "m",
        ViT(ViTConfig(**{**TINY, "num_classes": 0})),
        Preprocess(image_size=(48, 80)),
    )
    with pytest.raises(ConfigError, match="has no head and answers no classes"):
        predict_files(tmp_path / "m", images, tmp_path / "answers.jsonl")
    assert not (tmp_path / "answers.jsonl.parts").exists()


def test_progress_is_told(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr("vitral.workflows.predict.predict.PROGRESS_INTERVAL", 0.0)
    with captured_log() as said:
        predict_files(
            model, images, tmp_path / "answers.jsonl", batch_size=3, workers=0
        )
    said = [line for line in said if not line.startswith("left out: ")]
    assert len(said) == -(-FILES // 3)
    assert said[0].startswith(f"3 of {FILES} files, ")
    assert said[-1].endswith("% of the time waiting for data")


def test_nothing_but_the_verb_itself_is_started_for_one_image(model, images):
    """No worker for a handful of files."""
    code = (
        "import sys, multiprocessing.context as c\n"
        "c.BaseContext.Process = None\n"
        "from vitral.cli import main\n"
        f"sys.exit(main(['predict', {str(model)!r}, {str(images / 'pixel.png')!r}]))"
    )
    source = Path(__file__).parents[1] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] in CLASSES
