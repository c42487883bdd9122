"""Bad input from end to end: the command, its exit code, and what it says."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from photos import CLASSES, contents, make_photos
from vitral.cli import main

TINY = ["--model", "vit_mu16", "--image-size", "32", "48", "--set", "depth=1"]
TINY += ["--steps", "2", "--warmup", "0", "--device", "cpu"]

Make = Callable[[Path], Any]


def folder(path: Path) -> None:
    make_photos(path / "data", splits=("train", "val"), per_class=5)


def one_class(path: Path) -> None:
    make_photos(path / "data", splits=(), classes=CLASSES[:1], per_class=5)


def unknown_in_val(path: Path) -> None:
    folder(path)
    (path / "data" / "val" / CLASSES[0]).rename(path / "data" / "val" / "violet")


def bad(content: bytes, name: str = "0.png") -> Make:
    def make(path: Path) -> None:
        folder(path)
        (path / "data" / "train" / CLASSES[0] / "0.png").unlink()
        (path / "data" / "train" / CLASSES[0] / name).write_bytes(content)

    return make


def truncated(path: Path) -> None:
    folder(path)
    file = path / "data" / "train" / CLASSES[0] / "0.png"
    file.write_bytes(file.read_bytes()[:900])


def table(content: bytes) -> Make:
    def make(path: Path) -> None:
        make_photos(path / "data", splits=("x",), classes=CLASSES[:2], per_class=2)
        (path / "data" / "labels.csv").write_bytes(content)

    return make


def foreign(content: bytes, name: str = "w.safetensors") -> Make:
    def make(path: Path) -> None:
        folder(path)
        (path / name).write_bytes(content)

    return make


def resnet(path: Path) -> None:
    folder(path)
    save_file({"conv1.weight": torch.ones(4, 3, 7, 7)}, path / "w.safetensors")


def pickled(path: Path) -> None:
    folder(path)
    torch.save({"x": print}, path / "w.pth")


def in_use(path: Path) -> None:
    folder(path)
    (path / "run").mkdir()
    (path / "run" / "thesis.tex").touch()


FIRST = f"data/train/{CLASSES[0]}/0.png"
TABLE: list[tuple[str, Make, list[str], int, str]] = [
    ("no data", lambda path: None, [], 2, "neither a folder, a table nor a known name"),
    ("empty", lambda path: (path / "data").mkdir(), [], 3, "data holds no image"),
    ("one class", one_class, [], 3, "holds one class only, 'blue stripes'"),
    ("unknown class", unknown_in_val, [], 3, "val has the class(es) violet, which tra"),
    ("zero bytes", bad(b""), [], 3, "1 of 30 images cannot be decoded, more than the"),
    ("cut short", truncated, [], 3, "train/blue stripes/0.png: "),
    ("text as jpg", bad(b"Dear Sir", "a.jpg"), [], 3, "train/blue stripes/a.jpg: "),
    ("not UTF-8", table(b"path,label\n\xff\xfe,a\n"), [], 3, "labels.csv"),
    ("column", table(b"file,label\nx/green/0.png,a\n"), [], 3, "path"),
    ("no such file", table(b"path,label\nx.png,a\n"), [], 3, "line 2, column 'path'"),
    ("resnet", resnet, ["--weights", "w.safetensors"], 4, "holds a network of con"),
    (
        "corrupt",
        foreign(b"\x10\x00\x00\x00\x00\x00\x00\x00{nonsense"),
        ["--weights", "w.safetensors"],
        4,
        "is not a readable safetensors file",
    ),
    (
        "pickle",
        pickled,
        ["--weights", "w.pth"],
        4,
        "pickle names __builtin__.print",
    ),
    ("in use", in_use, [], 2, "holds something that is not a run"),
    ("flag", folder, ["--epoch", "3"], 2, "--epochs"),
    ("model", folder, ["--model", "vit_x16"], 2, "Unknown model `vit_x16`"),
    ("group", folder, ["--group-by", "("], 2, "`--group-by` must be 'folder' or a"),
    ("val share", folder, ["--val", "1.5"], 2, "1.5"),
    (
        "two sources",
        folder,
        ["--steps", "-3"],
        2,
        "`--steps` must be at least 0: got -3",
    ),
]


@pytest.mark.parametrize(
    ("make", "flags", "code", "sentence"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_bad_input(tmp_path, monkeypatch, capsys, make, flags, code, sentence):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    before = contents(tmp_path)
    model = [] if "--weights" in flags else TINY
    assert main(["train", "data", "--out", "run", *model, *flags]) == code
    captured = capsys.readouterr()
    assert sentence in " ".join(captured.err.split())
    assert "Traceback" not in captured.err + captured.out
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name not in before} <= {"run/log.txt"}


@pytest.mark.usefixtures("no_report")
def test_the_next_try_may_use_the_folder(tmp_path, monkeypatch, capsys):
    """A run that ended before its first step does not hold its folder."""
    monkeypatch.chdir(tmp_path)
    bad(b"")(tmp_path)
    words = ["train", "data", "--out", "run", *TINY]
    assert main(words) == 3
    (tmp_path / FIRST).unlink()
    assert main(words) == 0
    assert main(words) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.usefixtures("no_report")
def test_a_class_that_val_lacks_keeps_its_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path)
    shutil.rmtree(tmp_path / "data" / "val" / CLASSES[0])
    assert main(["train", "data", "--out", "run", *TINY]) == 0
    rows = (tmp_path / "run" / "predictions" / "val.csv").read_text().splitlines()
    assert rows[0].endswith(",".join(f"p:{name}" for name in CLASSES))
    assert len(rows) == 11
    assert "val has no example of blue stripes" in capsys.readouterr().out
