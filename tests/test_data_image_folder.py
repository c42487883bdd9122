"""vitral.data.sources.image_folder: which files become examples, with which label and
split."""

import hashlib
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

import vitral.data as data
from vitral.data.order import natural_key
from vitral.data.sources.image_folder import read_folder
from vitral.data.split import apply, save
from vitral.errors import ConfigError, DataError
from vitral.tasks.classification.labels import ClassLabels, match_classes


def make_images(root: Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 5), (number % 256, number // 256, 7)).save(file)


def folder_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        digest.update(f"{path}{status.st_mtime_ns}{status.st_mode}".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def by_id(dataset: data.Dataset) -> dict[str, data.Example]:
    return {example.id: example for example in dataset.examples}


def test_natural_order():
    names = ["class 10", "class 2", "Class 1", "b", "a10b2", "a10b10", "a9"]
    expected = ["a9", "a10b2", "a10b10", "b", "Class 1", "class 2", "class 10"]
    assert sorted(names, key=natural_key) == expected


def test_classes_in_natural_order_and_files_at_any_depth(tmp_path):
    make_images(
        tmp_path,
        "class 10/a.png",
        "class 2/x/y/b.JPG",
        "class 2/a2.png",
        "class 2/a10.png",
    )
    dataset = read_folder(tmp_path)
    assert dataset.classes == ("class 2", "class 10")
    ids = [(example.id, example.label) for example in dataset.examples]
    assert ids == [
        ("class 2/a2.png", (0,)),
        ("class 2/a10.png", (0,)),
        ("class 2/x/y/b.JPG", (0,)),
        ("class 10/a.png", (1,)),
    ]
    assert {example.split for example in dataset.examples} == {""}
    assert dataset.read(dataset.examples[0]).size == (8, 5)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders_and_a_class_missing_in_val(tmp_path, val):
    make_images(
        tmp_path,
        *(f"train/{name}/1.png" for name in ("ant", "bee", "cat")),
        f"{val}/ant/1.png",
        f"{val}/cat/1.png",
        "test/cat/1.png",
    )
    dataset = data.open(tmp_path)
    assert dataset.classes == ("ant", "bee", "cat")
    examples = by_id(dataset)
    assert examples[f"{val}/cat/1.png"].label == (2,)
    assert examples[f"{val}/cat/1.png"].split == "val"
    assert examples["test/cat/1.png"].label == (2,)
    assert dataset.counts() == {
        "train": {"ant": 1, "bee": 1, "cat": 1},
        "val": {"ant": 1, "bee": 0, "cat": 1},
        "test": {"ant": 0, "bee": 0, "cat": 1},
    }
    assert "val has no example of bee" in dataset.notes
    assert [example.id for example in dataset.select("test")] == ["test/cat/1.png"]


def test_a_class_unknown_to_train_is_named_with_both_lists(tmp_path):
    make_images(
        tmp_path, "train/ant/1.png", "train/bee/1.png", "val/ant/1.png", "val/dog/1.png"
    )
    with pytest.raises(
        DataError,
        match=r"val has the class.es. dog, which train lacks. Classes of train: "
        r"ant, bee. Classes of val: ant, dog. Rename the folder",
    ):
        data.open(tmp_path)


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    make_images(tmp_path / "splits", f"train/{nfc}/1.png", "train/bar/1.png")
    make_images(tmp_path / "splits", f"val/{nfd}/1.png")
    dataset = data.open(tmp_path / "splits")
    assert dataset.classes == ("bar", nfc)
    assert by_id(dataset)[f"val/{nfd}/1.png"].label == (1,)
    assert "class folder(s) have a name in another Unicode form than NFC, such as " in (
        "; ".join(dataset.notes)
    )
    make_images(tmp_path / "both", f"{nfc}/1.png", f"{nfd}/2.png", "bar/1.png")
    dataset = data.open(tmp_path / "both", val=0, test=0)
    assert dataset.classes == ("bar", nfc)
    assert [example.label for example in dataset.examples] == [(0,), (1,), (1,)]
    assert (
        f"2 folders are one class, {nfc}: their names differ in Unicode form only"
        in dataset.notes
    )
    # A model and a split of an earlier version keep the form of their folders.
    assert match_classes(ClassLabels(names=(nfd, "bar")), dataset).classes == (
        nfd,
        "bar",
    )
    file = tmp_path / "split.csv"
    rows = [f"{nfd}/1.png,{nfd},val", "bar/1.png,bar,train"]
    file.write_text("path,label,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    examples = by_id(apply(dataset, file))
    assert examples[f"{nfc}/1.png"].split == "val"


def test_same_leaf_names_are_not_merged(tmp_path):
    make_images(tmp_path, "day/cat/1.png", "night/cat/1.png")
    assert read_folder(tmp_path).classes == ("day", "night")


def test_a_vehicle_named_train_is_a_class(tmp_path):
    make_images(tmp_path, "train/1.png", "bus/1.png", "car/1.png")
    assert read_folder(tmp_path).classes == ("bus", "car", "train")


def test_folders_beside_splits_are_listed(tmp_path):
    make_images(
        tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "extra/c/1.png"
    )
    dataset = read_folder(tmp_path)
    assert dataset.classes == ("a", "b")
    assert data.IgnoredFile(
        path="extra/", reason="folder beside the split folders"
    ) in (dataset.ignored)


def test_ignored_files_are_listed_with_their_reason(tmp_path):
    make_images(
        tmp_path,
        "a/1.png",
        "b/1.png",
        "a/.hidden.png",
        "a/.ipynb_checkpoints/1.png",
        "__MACOSX/a/1.png",
        "b/@eaDir/1.png",
        "stray.png",
    )
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "b" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    (tmp_path / "empty").mkdir()
    before = folder_hash(tmp_path)
    dataset = read_folder(tmp_path)
    assert {item.path: item.reason for item in dataset.ignored} == {
        "__MACOSX": "file of the operating system",
        "stray.png": "image outside a class folder",
        "a/.hidden.png": "hidden",
        "a/.ipynb_checkpoints": "hidden",
        "a/Thumbs.db": "file of the operating system",
        "a/notes.txt": "not an image by its extension",
        "b/@eaDir": "file of the operating system",
        "b/gone.png": "symbolic link that leads nowhere",
        "b/pipe.png": "not a regular file",
    }
    assert list(by_id(dataset)) == ["a/1.png", "b/1.png"]
    assert dataset.classes == ("a", "b")
    assert "empty/ holds no image" in dataset.notes
    data.check(data.open(tmp_path))
    assert folder_hash(tmp_path) == before


def test_symbolic_links_are_followed_and_loops_end(tmp_path):
    make_images(tmp_path / "store", "1.png")
    root = tmp_path / "root"
    make_images(root, "a/1.png", "b/1.png")
    (root / "a" / "again").symlink_to(root / "a", target_is_directory=True)
    (root / "b" / "more").symlink_to(tmp_path / "store", target_is_directory=True)
    (root / "b" / "self.png").symlink_to(root / "b" / "self.png")
    dataset = read_folder(root)
    assert list(by_id(dataset)) == ["a/1.png", "b/1.png", "b/more/1.png"]
    reasons = {item.path: item.reason for item in dataset.ignored}
    assert reasons["a/again"] == "symbolic link to a folder that is read already"
    assert "b/self.png" in reasons


def test_names_with_newlines_and_unicode_work_and_bad_bytes_are_listed(tmp_path):
    make_images(tmp_path, "a/zwei\nzeilen.png", "b/日本 é.png")
    os.rename(tmp_path / "b" / "日本 é.png", os.fsencode(tmp_path / "b") + b"/\xff.png")
    make_images(tmp_path, "b/日本 é.png")
    dataset = read_folder(tmp_path)
    assert set(by_id(dataset)) == {"a/zwei\nzeilen.png", "b/日本 é.png"}
    assert "name is not UTF-8" in dataset.ignored[0].reason
    dataset.ignored[0].path.encode()


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ((), "holds no image. Expected one folder per class"),
        (("1.png", "2.png"), "holds 2 image.s. directly, such as 1.png, and no class"),
        (("a/1.png", "a/2.png"), "holds one class only, 'a'; at least two"),
        (("val/a/1.png", "test/b/1.png"), r"holds test/, val/ but no train/"),
        (
            ("train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/1.png"),
            "holds val/ and valid/, which both mean the val split",
        ),
        (("train/1.png", "test/2.png"), "image.s. directly, such as train/1.png"),
    ],
)
def test_layouts_that_are_refused(tmp_path, paths, sentence):
    make_images(tmp_path, *paths)
    with pytest.raises(DataError, match=sentence):
        read_folder(tmp_path)


def test_groups_by_folder_and_expression(tmp_path):
    make_images(tmp_path, "a/p1/1.png", "a/p1/2.png", "b/p2/1.png", "b/loose_7.png")
    groups = [example.group for example in read_folder(tmp_path, "folder").examples]
    assert groups == ["b" if group == "b" else group for group in groups]
    assert by_id(read_folder(tmp_path, "folder"))["a/p1/2.png"].group == "a/p1"
    expression = by_id(read_folder(tmp_path, r"/(p\d)/"))
    assert expression["b/p2/1.png"].group == "p2"
    assert expression["b/loose_7.png"].group == ""
    with pytest.raises(ConfigError, match="`group_by` 'patient' matches no path"):
        read_folder(tmp_path, "patient")
    with pytest.raises(
        ConfigError, match="'folder' or a regular expression: got '\\('"
    ):
        read_folder(tmp_path, "(")


def test_fingerprint_sees_ids_labels_and_splits_but_not_order(tmp_path):
    from dataclasses import replace

    make_images(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    dataset = data.open(tmp_path, val=0, test=0)
    first = dataset.examples[0]
    turned = replace(dataset, examples=dataset.examples[::-1])
    assert turned.fingerprint() == dataset.fingerprint()
    for change in (
        {"id": "x"},
        {"label": (1,)},
        {"split": "val"},
        {"target": (1.0, 0.0)},
    ):
        changed = (replace(first, **change), *dataset.examples[1:])
        other = replace(dataset, examples=changed)
        assert other.fingerprint() != dataset.fingerprint()
    assert len(dataset.fingerprint()) == 64


def test_open_says_what_is_near(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"neither a folder, a table nor a known name. Nearest names: cifar10",
    ):
        data.open("cifar-10")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ConfigError, match=r".parquet or .arrow shard, or a name: got"):
        data.open(tmp_path / "x.txt")
    with pytest.raises(ConfigError, match="`group_by` works on folders and tables"):
        data.open("digits", group_by="folder")


def test_blanks_around_a_name_make_no_other_class(tmp_path):
    """` cat` and `cat` were two classes, and a saved split could not be read."""
    for folder in (" cat", "cat", "dog ", "bee"):
        (tmp_path / folder).mkdir()
        for number in range(8):
            color = (number, len(folder), 7)
            Image.new("RGB", (4, 4), color).save(tmp_path / folder / f"{number}.png")
    dataset = data.open(tmp_path)
    assert dataset.classes == ("bee", "cat", "dog")
    assert sum(counts["cat"] for counts in dataset.counts().values()) == 16
    note = next(note for note in dataset.notes if "blanks" in note)
    assert note.startswith("2 class folder(s) have blanks around their name")
    save(dataset, tmp_path / "split.csv")
    again = data.open(tmp_path / "split.csv")
    assert again.classes == dataset.classes
    assert {e.id: (e.split, e.label) for e in again.examples} == {
        e.id: (e.split, e.label) for e in dataset.examples
    }
    assert again.decode(again.examples[0]).image.size == (4, 4)


def test_classes_that_differ_in_case_only_are_noted(tmp_path):
    """They stay two: a disk and a table may mean both."""
    for folder in ("Cat", "cat", "dog"):
        (tmp_path / folder).mkdir()
        for number in range(6):
            color = (number, len(folder), ord(folder[0]))
            Image.new("RGB", (4, 4), color).save(tmp_path / folder / f"{number}.png")
    dataset = data.open(tmp_path)
    assert dataset.classes == ("Cat", "cat", "dog")
    notes = [note for note in dataset.notes if "lower case only" in note]
    assert notes == [
        "classes differ in upper and lower case only: Cat and cat; merge them if they "
        "are one"
    ]
