"""Contents of a data set: a run that goes on sees the pictures that it began with."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitral.data
from photos import CLASSES, make_photos, photo, tiny_config
from vitral.cli import main
from vitral.data.contents import (
    FileContent,
    find_changes,
    format_contents,
    hash_contents,
    parse_contents,
    stat_file,
)
from vitral.errors import DataError
from vitral.workflows.config import TrainConfig
from vitral.workflows.features import cache_key
from vitral.workflows.train import train

CHANGED = Path("train", CLASSES[0], "a.bmp")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine images a class and one of a format whose files have all the same size."""
    root = make_photos(tmp_path / "photos", per_class=9)
    photo(0, 500).save(root / CHANGED)
    return root


def _change_pixels(root: Path) -> None:
    """Replace a picture by one of the same size and time, as some copies leave them."""
    file = root / CHANGED
    before = file.stat()
    with Image.open(file) as image:
        other = Image.eval(image, lambda value: 255 - value)
    other.save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stat_file(file) == (before.st_size, before.st_mtime_ns)


def _config(root: Path, **changes: object) -> TrainConfig:
    return tiny_config(root, epochs=2.0, **changes)


def test_resume_refuses_other_pixels(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(_config(photos), out)
    kept = (out / "contents.csv").read_bytes()
    _change_pixels(photos)
    with pytest.raises(DataError, match=r"1 of 82 files of .* changed since") as error:
        train(_config(photos), out, resume=True)
    assert CHANGED.as_posix() in str(error.value)
    assert "`data_changed`" in str(error.value)
    assert (out / "contents.csv").read_bytes() == kept


def test_resume_refuses_two_pictures_that_were_swapped(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(_config(photos), out)
    first, second = (photos / "train" / name / "0.png" for name in CLASSES[:2])
    first.rename(photos / "spare")
    second.rename(first)
    (photos / "spare").rename(second)
    with pytest.raises(DataError, match="2 of 82 files"):
        train(_config(photos), out, resume=True)


def test_an_accepted_change_is_written_down(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(_config(photos), out)
    _change_pixels(photos)
    train(_config(photos), out, resume=True, data_changed=True)
    for _ in range(2):
        train(_config(photos), out, resume=True)
        data = json.loads((out / "data.json").read_text())
        (change,) = data["changes"]
        assert change.startswith("1 of 82 files changed while the run was stopped")
        assert change in data["notes"]
        assert CHANGED.as_posix() in change


def test_a_copy_of_the_data_is_the_same_data(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(_config(photos), out)
    for file in photos.rglob("*.*"):
        os.utime(file, (1, 1))
    train(_config(photos), out, resume=True)
    assert json.loads((out / "data.json").read_text())["changes"] == []


def test_cached_outputs_are_not_those_of_the_old_pictures(
    photos: Path, tmp_path: Path
) -> None:
    # One block of two learns, and the output of the other is kept.
    augment = replace(_config(photos).augment, views=2)
    config = _config(photos, freeze=1, cache=True, augment=augment)
    train(config, tmp_path / "run")
    _change_pixels(photos)
    shutil.rmtree(tmp_path / "run/checkpoints")
    train(config, tmp_path / "run", resume=True, data_changed=True)
    train(config, tmp_path / "new")
    again, fresh = (
        load_file(tmp_path / name / "model/model.safetensors")
        for name in ("run", "new")
    )
    assert all(torch.equal(again[key], fresh[key]) for key in fresh)


def test_features_are_kept_for_these_bytes(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = vitral.data.open(str(photos))
    before = cache_key.content_hash(dataset, dataset.examples)
    # A sample of a large set, which happens to hold the picture.
    monkeypatch.setattr(cache_key, "MAX_HASHED_BYTES", 0)
    monkeypatch.setattr(cache_key, "HASHED_SAMPLE", len(dataset.examples))
    sampled = cache_key.content_hash(dataset, dataset.examples)
    _change_pixels(photos)
    assert cache_key.content_hash(dataset, dataset.examples) not in (before, sampled)
    monkeypatch.undo()
    assert cache_key.content_hash(dataset, dataset.examples) != before


def test_a_sample_of_the_audit_compares_sizes_and_times() -> None:
    seen = {"a": FileContent(10, 1, "x"), "b": FileContent(10, 1, "")}
    now = {"a": FileContent(10, 2, "x"), "b": FileContent(10, 2, "")}
    assert find_changes(seen, now) == ["b"]
    assert find_changes(seen, {"b": FileContent(11, 1, "y")}) == ["b"]
    assert find_changes(seen, {"c": FileContent(1, 1, "")}) == []
    assert hash_contents({"a": now["a"]}) == hash_contents({"a": seen["a"]})
    assert hash_contents(now) != hash_contents(seen)


def test_contents_keep_any_name() -> None:
    contents = {
        name: FileContent(3, 2**62, "ab") for name in ('a "b",c', "d\ne", "é", " ")
    }
    text = format_contents(contents)
    assert parse_contents(text.splitlines(keepends=True)) == contents


@pytest.mark.parametrize("text", ["", "a,b\n", "path,size,mtime_ns,pixels\na,b,c,d\n"])
def test_a_damaged_table_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="columns path,size,mtime_ns,pixels"):
        parse_contents(text.splitlines())


def test_a_folder_of_frames_has_the_newest_time(tmp_path: Path) -> None:
    for index in range(3):
        photo(0, index).save(tmp_path / f"{index}.png")
        os.utime(tmp_path / f"{index}.png", ns=(0, 10 - index))
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert stat_file(tmp_path) == (sum(sizes), 10)
    assert stat_file(tmp_path / "gone.png") == (-1, 0)


def test_the_flag_needs_a_run_to_go_on_with(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", str(photos), "--out", out, "--data-changed"]) == 2
    assert "needs `--resume`" in capsys.readouterr().err
