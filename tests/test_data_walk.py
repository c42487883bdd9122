"""vitral.data.walk: what a file is by its name, links, and the line on what is left
out, in every verb that lists files."""

import os
from pathlib import Path

import pytest
from PIL import Image

import vitral.data as data
from helpers import captured_log
from vitral.cli import main
from vitral.data.images import formats
from vitral.data.sources.image_folder import read_folder
from vitral.data.walk import FolderWalk
from vitral.errors import ConfigError, DataError
from vitral.workflows.predict import find_files


def put(*files: Path, form: str | None = None) -> None:
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 99, 7)).save(file, format=form)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    put(*(root / name / f"{i}.png" for name in ("cat", "dog") for i in range(3)))
    put(root / "cat" / "scan", root / "cat" / "scan.0001", form="JPEG")
    put(root / "cat" / "new.avif")
    (root / "cat" / "README").write_text("BMW is no bitmap")
    for number in range(2):
        (root / "dog" / f"{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    (root / "dog" / "raw.NEF").write_bytes(b"II*\0")
    (root / "cat" / "._0.png").write_bytes(bytes(9))
    put(root / "cat" / ".thumbnails" / "t.png", root / "cat" / "@eaDir" / "x.jpg")
    put(root / "__MACOSX" / "x.png", root / "$RECYCLE.BIN" / "x.png")
    put(tmp_path / "elsewhere" / "b.png")
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    return root


READ = ["bird/b.png", "cat/0.png", "cat/1.png", "cat/2.png", "cat/new.avif", "cat/scan"]
READ += ["cat/scan.0001", "dog/0.png", "dog/1.png", "dog/2.png"]
LINE = (
    "left out: 9 of 19 files (3 file of the operating system; 2 .heic: needs "
    "pillow-heif: pip install pillow-heif; 2 hidden; 1 not an image; 1 .nef: is not "
    "decoded: convert it to PNG or JPEG)"
)

without_heif = pytest.mark.skipif(
    ".heic" in formats.IMAGE_EXTENSIONS, reason="pillow-heif is installed"
)


@without_heif
def test_every_listing_reads_the_same_files_and_says_what_it_leaves_out(photos):
    labelled, flat = read_folder(photos), data.read_unlabelled(photos)
    with captured_log() as said:
        predicted = list(find_files([photos]))
    for listed in (labelled, flat):
        assert sorted(example.id for example in listed.examples) == READ
        assert listed.left_out_line().split("(")[0] == LINE.split("(")[0]
        assert set(listed.left_out_line()[:-1].split("; ")[1:]) <= set(
            LINE[:-1].split("; ")
        )
    assert sorted(str(file.relative_to(photos)) for file in predicted) == READ
    assert len(said) == 1
    assert sorted(said[0].split("; ")[1:-1]) == sorted(
        labelled.left_out_line().split("; ")[1:-1]
    )
    assert data.check(labelled).decoded == len(READ)


@without_heif
def test_data_check_prints_the_line(photos, capsys):
    assert main(["data", "check", str(photos)]) == 0
    assert "left out: 9 of 19 files (3 file of the operating" in capsys.readouterr().out


def test_eleven_folders_linked_to_each_other_are_read_once(tmp_path):
    names = [f"c{number}" for number in range(11)]
    put(*(tmp_path / name / f"{name}.png" for name in names))
    for name in names:
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
        (tmp_path / name / "up").symlink_to(tmp_path)
    dataset = read_folder(tmp_path)
    assert [example.id for example in dataset.examples] == [
        f"{name}/{name}.png" for name in names
    ]
    assert len(list(find_files([tmp_path]))) == 11
    assert dataset.left_out_line() == (
        "left out: 132 of 143 files (132 symbolic link to a folder that is read "
        "already)"
    )


def test_a_folder_is_read_under_its_own_name_before_a_link(tmp_path):
    put(tmp_path / "ant" / "1.png", tmp_path / "dog" / "2.png")
    (tmp_path / "ant" / "again").symlink_to(tmp_path / "dog")
    (tmp_path / "alias").symlink_to(tmp_path / "dog")
    dataset = read_folder(tmp_path)
    assert dataset.classes == ("ant", "dog")
    assert [example.id for example in dataset.examples] == ["ant/1.png", "dog/2.png"]


def test_frames_beside_a_system_folder_are_a_clip(tmp_path):
    put(tmp_path / "a" / "clip" / "1.png", tmp_path / "a" / "clip" / "@eaDir" / "1.jpg")
    walk = FolderWalk(root=tmp_path, kind="clips")
    assert [path for _, path in walk.files()] == ["a/clip"]


@pytest.mark.parametrize("pattern", ["**.png", "**/*.png", "cat/[0-9].png", "**"])
def test_patterns_reach_files_and_no_hidden_ones(photos, pattern, monkeypatch):
    monkeypatch.chdir(photos.parent)
    names = {file.name for file in find_files([f"photos/{pattern}"])}
    assert {"0.png", "1.png", "2.png"} <= names
    assert not names & {"t.png", "x.png", "x.jpg", "._0.png", "README", "0.HEIC"}
    assert {file.name for file in find_files([photos / pattern])} == names


def test_a_pattern_of_folders_reads_them_and_nothing_is_a_sentence(photos):
    found = list(find_files([photos / "[cd]*"]))
    assert {file.parent.name for file in found} == {"cat", "dog"}
    with pytest.raises(
        ConfigError, match=r"No image at .*nothing\*\*: give files, fol"
    ):
        list(find_files([photos / "nothing**"]))


@pytest.mark.parametrize("name", ["gone.png", "x.heic", "x.CR2"])
def test_a_refusal_names_the_reason(tmp_path, name):
    for folder in ("a", "b"):
        file = tmp_path / folder / name
        file.parent.mkdir()
        if name == "gone.png":
            file.symlink_to("/nowhere/1.png")
        else:
            file.write_bytes(bytes(9))
    reason = {
        "gone.png": "2 symbolic link that leads nowhere",
        "x.heic": "2 .heic: needs pillow-heif",
        "x.CR2": "2 .cr2: is not decoded: convert it to PNG or JPEG",
    }[name]
    for read in (read_folder, data.read_unlabelled, lambda at: list(find_files([at]))):
        with pytest.raises(
            (DataError, ConfigError), match="Left out: 2 of 2 files"
        ) as e:
            read(tmp_path)
        assert reason in str(e.value)
    put(tmp_path / "c" / "1.png", tmp_path / "d" / "1.png")
    assert f"a/ holds no image (1 {reason[2:]}" in str(read_folder(tmp_path).notes)


def test_first_bytes_of_every_format(tmp_path):
    for form in formats.FORMATS:
        if form == "HEIF":
            continue
        file = tmp_path / "image"
        put(file, form=form)
        assert formats.begins_as_image(file), form
    os.truncate(file, 0)
    assert not formats.begins_as_image(file)
