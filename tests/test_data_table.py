"""vitral.data.sources.table: rows to examples, and what is said about a wrong row."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vitral.data as data
from vitral.cli import main
from vitral.data.names import join_names, split_names
from vitral.data.order import natural_key
from vitral.data.sources.table import read_table
from vitral.data.split import save
from vitral.data.targets import ClassShares
from vitral.errors import ConfigError, DataError
from vitral.tasks.classification.labels import ClassLabels

IMAGES = ("a.png", "b.png", "sub/c.png", "d.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(IMAGES):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 5), (number, 9, 9)).save(path)
    return tmp_path


def write(root: Path, text: str, name: str = "labels.csv") -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_table_and_a_folder_that_holds_one(root):
    write(root, "path,label\na.png,class 10\nb.png,class 2\n./sub/c.png,class 2\n")
    dataset = data.open(root, val=0, test=0)
    assert dataset.classes == ("class 2", "class 10")
    labels = {example.id: example.label for example in dataset.examples}
    assert labels == {"a.png": (1,), "b.png": (0,), "sub/c.png": (0,)}
    assert not ClassLabels.from_dataset(dataset).multi_label
    assert dataset.read(dataset.examples[2]).size == (8, 5)
    assert dataset.name == root.name


def test_splits_groups_and_a_byte_order_mark(root):
    path = root / "mine.csv"
    text = (
        "path,label,split,group,note\r\n"
        'a.png,x,train,p1,"with, comma"\r\n'
        "b.png,y,train,,\r\n\r\n"
        "d.png,x,validation,p1,\r\n"
    )
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    dataset = read_table(path)
    assert [example.split for example in dataset.examples] == ["train", "train", "val"]
    assert [example.group for example in dataset.examples] == ["p1", "", "p1"]
    assert dataset.name == "mine"
    by_note = read_table(path, group_by="note")
    assert by_note.examples[0].group == "with, comma"
    with pytest.raises(
        ConfigError, match=r"a column of mine.csv: got 'patient'; found"
    ):
        read_table(path, group_by="patient")


def test_images_and_labels_are_counted_apart(root, capsys):
    path = write(root, "path,label\na.png,dog;cat\nb.png,cat;dog\nd.png,\n")
    dataset = data.open(path, val=0, test=0)
    assert dataset.sizes() == {"train": 3}
    assert dataset.label_counts()["without_label"] == {"train": 1}
    assert dataset.counts() == {"train": {"cat": 2, "dog": 2}}
    assert main(["data", "check", str(path), "--val", "0", "--test", "0"]) == 0
    line = "train: 3 images, 4 labels, 1 without a label (cat 2, dog 2)"
    assert line in capsys.readouterr().out.splitlines()


def test_shares_of_classes_are_one_label(root):
    path = write(root, "path,label,weight\na.png,dog;cat,1;2\nb.png,cat,\nd.png,dog,\n")
    dataset = data.open(path, val=0, test=0)
    assert dataset.sizes() == {"train": 3}
    assert dataset.label_counts() == {}
    assert dataset.describe_splits() == {"train": "3 images"}


def test_several_labels(root):
    path = write(root, "path,label\na.png,dog;cat\nb.png,cat\nd.png,eel\n")
    dataset = read_table(path)
    assert ClassLabels.from_dataset(dataset).multi_label
    assert dataset.classes == ("cat", "dog", "eel")
    assert [example.label for example in dataset.examples] == [(0, 1), (0,), (2,)]
    opened = data.open(path, val=0, test=0)
    assert opened.counts()["train"] == {"cat": 2, "dog": 1, "eel": 1}


def test_soft_targets_from_csv_and_jsonl_agree(root):
    path = write(
        root,
        "path,label,weight\na.png,dog;cat,3;1\nb.png,cat,\nd.png,eel;dog,2;2\n",
    )
    rows = [
        {"path": "a.png", "label": {"dog": 3, "cat": 1}},
        {"path": "b.png", "label": "cat"},
        {"path": "d.png", "label": ["eel", "dog"], "weight": [2, 2]},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    other = write(root, lines + "\n\n", "other.jsonl")
    for dataset in (read_table(path), read_table(other)):
        assert dataset.classes == ("cat", "dog", "eel")
        assert not ClassLabels.from_dataset(dataset).multi_label
        targets = [example.target for example in dataset.examples]
        assert targets == [
            ClassShares((0, 1), (0.25, 0.75)),
            None,
            ClassShares((1, 2), (0.5, 0.5)),
        ]
        # A tie goes to the class that comes first.
        assert [example.label for example in dataset.examples] == [(1,), (0,), (1,)]


def test_jsonl_lists_and_numbers(root):
    path = write(
        root,
        '{"path": "a.png", "label": ["x", "y"], "split": "train"}\n'
        '{"path": "b.png", "label": 7, "split": "test"}\n'
        '{"path": "d.png", "label": "7", "split": "train"}\n',
        "labels.jsonl",
    )
    dataset = data.open(root, val=0)
    assert path.exists()
    assert dataset.classes == ("7", "x", "y")
    assert ClassLabels.from_dataset(dataset).multi_label
    assert [example.label for example in dataset.examples] == [(1, 2), (0,), (0,)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: column 'path' is missing; found nothing; expected path,label"),
        (
            "file,label\na.png,x\n",
            "line 1: column 'path' is missing; found file, label",
        ),
        ("path;label\na.png;x\n", "found path;label; .* Separate columns by commas"),
        ("path,label\n", "has no row"),
        ("path,label\na.png,x\n,y\n", "line 3, column 'path': it is empty; name an"),
        (
            "path,label\na.png,x\nb.png,\n",
            "line 3, column 'label': it is empty; name a",
        ),
        ("path,label\na.png,x;;y\n", "line 2, column 'label': it is empty"),
        ("path,label\na.png,x;x\n", "line 2, column 'label': a class is named twice"),
        (
            "path,label\na.png,x\nno.png,y\n",
            "line 3, column 'path': .*no.png is no file",
        ),
        ("path,label\na.png,x\nsub,y\n", "line 3, column 'path': .*sub is no file"),
        ("path,label\n/a.png,x\n", "line 2, column 'path': /a.png is no file"),
        (
            "path,label\na.png,x\nb.png,y\nsub/../a.png,y\n",
            "line 4, column 'path': 'a.png' is already in line 2; keep one",
        ),
        ("path,label\na.png,x,y\n", "line 2: 3 fields, but the header has 2"),
        ('path,label\n"a.png,x\n', "line 2: not valid CSV"),
        ("path,label\na.png,x\nb.png,x\n", "names one class only, 'x'; at least two"),
        (
            "path,label,split\na.png,x,dev\n",
            "column 'split': expected train, val or test",
        ),
        (
            "path,label,split\na.png,x,train\nb.png,y,\n",
            "line 3, column 'split': it is empty while other rows have one",
        ),
        ("path,label,split\na.png,x,val\n", "column 'split': no row says train"),
        (
            "path,label,split\na.png,x,train\nb.png,y,train\nd.png,z,val\n",
            "line 4, column 'label': val has the class.es. z, which train lacks. "
            "Classes of train: x, y. Classes of val: z",
        ),
        (
            "path,label,weight\na.png,x;y,1\n",
            "column 'weight': 1 weight.s. for 2 label",
        ),
        (
            "path,label,weight\na.png,x;y,1;-1\n",
            "column 'weight': expected numbers of at",
        ),
        ("path,label,weight\na.png,x;y,0;0\n", "with a sum above 0, got"),
        ("path,label,weight\na.png,x;y,1;nan\n", "expected numbers of at least 0"),
        ("path,label,weight\na.png,x;y,1;much\n", "expected numbers of at least 0"),
    ],
)
def test_wrong_tables(root, text, sentence):
    with pytest.raises(DataError, match=sentence):
        read_table(write(root, text))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"path": "a.png", "label": "x"}\n{"path": \n', "line 2: not valid JSON"),
        (
            '["a.png", "x"]\n',
            "line 1: expected an object with path and label, got list",
        ),
        ('{"path": "a.png"}\n', "line 1: column 'label' is missing; found path"),
        ('{"path": "a.png", "label": null}\n', "line 1, column 'label': it is empty"),
        ('{"path": "a.png", "label": []}\n', "line 1, column 'label': it is empty"),
        (
            '{"path": "a.png", "label": {"x": -1}}\n',
            "line 1, column 'weight': expected",
        ),
        (
            '{"path": "a.png", "label": {"x": 1}, "weight": 2}\n',
            "column 'weight': the label holds weights already",
        ),
    ],
)
def test_wrong_json_lines(root, text, sentence):
    with pytest.raises(DataError, match=sentence):
        read_table(write(root, text, "labels.jsonl"))


def test_a_line_in_latin_1_is_named(root):
    path = root / "labels.csv"
    path.write_bytes("path,label\na.png,x\nb.png,é\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"labels.csv line 3: byte 0xe9 is not UTF-8. Save"
    ):
        read_table(path)


def test_lines_are_counted_through_quoted_newlines(root):
    text = 'path,label,note\na.png,x,"two\nlines"\nno.png,y,\n'
    with pytest.raises(DataError, match="line 4, column 'path'"):
        read_table(write(root, text))


def test_two_tables_in_a_folder_and_an_unreadable_one(root):
    write(root, "path,label\na.png,x\nb.png,y\n")
    write(root, "", "labels.jsonl")
    with pytest.raises(DataError, match=r"holds both labels.csv and labels.jsonl"):
        data.open(root)
    with pytest.raises(DataError, match=r"none.csv cannot be read: No such file"):
        read_table(root / "none.csv")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_path_finds_its_file_in_another_unicode_form(root, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = unicodedata.normalize(other, "café/é.png")
    (root / name).parent.mkdir()
    (root / "a.png").rename(root / name)
    text = f"path,label\n{unicodedata.normalize(form, 'café/é.png')},x\nb.png,y\n"
    dataset = read_table(write(root, text))
    assert dataset.examples[0].id == name
    assert dataset.read(dataset.examples[0]).size
    assert (
        "1 path(s) of the table are written otherwise on the disk" in dataset.notes[0]
    )


def test_absolute_and_windows_paths(root):
    text = f"path,label\n{root / 'a.png'},x\nsub\\c.png,y\n"
    (root / "b.png").rename(root / "sub" / "c.png")
    dataset = read_table(write(root, text))
    assert [example.id for example in dataset.examples] == ["a.png", "sub/c.png"]
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    dataset = read_table(
        write(elsewhere, text.replace("sub\\c.png", str(root / "d.png")))
    )
    assert dataset.examples[1].id == str(root / "d.png")
    assert dataset.read(dataset.examples[1]).size


def test_all_missing_files_at_once(root):
    rows = "".join(f"gone{i}.png,x\n" for i in range(12))
    with pytest.raises(
        DataError,
        match=r"12 of 14 rows name no file, the first ten: labels.csv line "
        r"4: .*gone0.png; .*line 13: .*gone9.png. Correct the paths",
    ) as caught:
        read_table(write(root, f"path,label\na.png,x\nb.png,y\n{rows}"))
    assert "gone10" not in str(caught.value)


NONE = [("a", (1, 0)), ("b", (1, 1)), ("d", (0, 0))]


@pytest.mark.parametrize("table", ["labels.csv", "labels.jsonl", "onehot.csv"])
def test_rows_without_a_label_where_others_have_several(root, table):
    names = {"a": ["x"], "b": ["x", "y"], "d": []}
    text = {
        "labels.csv": "path,label\n"
        + "".join(f"{k}.png,{';'.join(v)}\n" for k, v in names.items()),
        "labels.jsonl": "".join(
            json.dumps({"path": f"{k}.png", "label": v}) + "\n"
            for k, v in names.items()
        ),
        "onehot.csv": "path,x,age,y\n"
        + "".join(f"{k}.png,{x},{x + 40},{y}\n" for k, (x, y) in NONE),
    }[table]
    dataset = read_table(write(root, text, table))
    assert dataset.classes == ("x", "y")
    assert [example.label for example in dataset.examples] == [(0,), (0, 1), ()]
    target = dataset.targets.stack(dataset.classes, dataset.examples, [None] * 3)
    assert target.shares.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert ClassLabels.from_dataset(dataset).multi_label
    if table == "onehot.csv":
        assert dataset.notes == (
            "classes are the columns of 0 and 1: x, y; onehot.csv has other columns, "
            "not read: age",
        )
        assert "label" in data.describe_source(root / table).columns


def test_columns_of_0_and_1_with_one_1_each_are_one_class(root):
    dataset = read_table(write(root, "path,x,y\na.png,1,0\nb.png,0.0,1.0\n"))
    assert [example.label for example in dataset.examples] == [(0,), (1,)]
    assert not ClassLabels.from_dataset(dataset).multi_label


@pytest.mark.parametrize("label", ["nan", "NaN", "x;NaN"])
def test_a_missing_number_is_no_class(root, label):
    with pytest.raises(
        DataError, match=r"line 2, column 'label': it is .*a missing numb"
    ):
        read_table(write(root, f"path,label\na.png,{label}\nb.png,y\n"))
    with pytest.raises(DataError, match="it is 'NaN', a missing number and no class"):
        read_table(write(root, '{"path": "a.png", "label": NaN}\n', "labels.jsonl"))


@pytest.mark.parametrize("where", ["root", "splits"])
def test_the_metadata_of_hugging_faces_image_folder(root, where):
    if where == "root":
        write(root, "file_name,label\na.png,x\nsub/../b.png,y\n", "metadata.csv")
        dataset = data.open(root, val=0, test=0)
        assert [example.id for example in dataset.examples] == ["a.png", "b.png"]
        return
    for split, names in (("train", "ab"), ("test", "d")):
        (root / split).mkdir()
        for name in names:
            (root / f"{name}.png").rename(root / split / f"{name}.png")
    write(root / "train", "file_name,label\na.png,x\nb.png,y\n", "metadata.csv")
    write(root / "test", '{"file_name": "d.png", "label": "y"}\n', "metadata.jsonl")
    dataset = data.open(root, val=0)
    assert {e.id: (e.split, e.label) for e in dataset.examples} == {
        "train/a.png": ("train", (0,)),
        "train/b.png": ("train", (1,)),
        "test/d.png": ("test", (1,)),
    }
    assert data.describe_source(root).kind == "table"
    write(root / "test", '{"file_name": "d.png", "label": "z"}\n', "metadata.jsonl")
    with pytest.raises(DataError, match=r"test has the class.es. z, which train lacks"):
        data.open(root)


def test_class_names_with_separators_come_back_from_a_saved_split(root):
    names = ["salt;pepper", "salt", "back\\slash", "end\\", ";"]
    for number, name in enumerate(names):
        for place in range(4):
            file = root / "classes" / name / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, place, 0)).save(file)
    before = data.open(root / "classes")
    save(before, root / "classes" / "split.csv")
    after = read_table(root / "classes" / "split.csv")
    assert after.classes == before.classes
    assert not ClassLabels.from_dataset(after).multi_label
    assert [(e.id, e.label, e.split) for e in after.examples] == [
        (e.id, e.label, e.split) for e in before.examples
    ]
    # Earlier versions wrote the name of the folder as it is.
    old = "path,label\nsalt;pepper/0.png,salt;pepper\nsalt/0.png,salt\n"
    assert read_table(write(root / "classes", old)).classes == ("salt", "salt;pepper")


@given(st.lists(st.text(alphabet="a;\\ é", min_size=1), min_size=1, max_size=4))
def test_joined_names_come_back(names):
    assert split_names(join_names(names)) == names


HOSTILE = {
    "deep.jsonl": (
        '{"path": "a.png", "label": ' + "[" * 100_000 + "}",
        r"deep.jsonl line 1: not valid JSON \(brackets within brackets",
    ),
    "deep_object.jsonl": (
        '{"label": "x"}\n' + '{"path":' * 100_000,
        r"line 1: column 'path' is missing|line 2: not valid JSON \(brackets",
    ),
    "digits.jsonl": (
        '{"path": "a.png", "label": ' + "9" * 5000 + "}",
        r"line 1: not valid JSON \(a number of more than 4,300 digits\)",
    ),
    "surrogate.jsonl": (
        '{"path": "a.png", "label": "\\ud800"}',
        "line 1, column 'label': .* is not UTF-8; rename the class",
    ),
    "surrogate_path.jsonl": (
        '{"path": "\\udcff.png", "label": "a"}',
        "line 1, column 'path': .* is not UTF-8; rename the file",
    ),
    "long.csv": (
        "path,label\n" + "a" * 5000 + ".png,a\n",
        r"line 2, column 'path': .{100} \.\.\. a+\.png is no file",
    ),
    "nul.csv": ("path,label\na\0.png,a\n", "line 2"),
    "nan.csv": ("path,label\na.png,nan\n", "a missing number and no class"),
    "twice.csv": (
        "path,label,label\na.png,x,y\n",
        "line 1: the column 'label' is there twice",
    ),
    "twice_alias.csv": (
        "file_name,label,file_name\na.png,x,b.png\n",
        "line 1: the column 'path' is there twice",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_table_is_an_error_with_its_line(root, name):
    text, message = HOSTILE[name]
    with pytest.raises(DataError, match=message) as error:
        read_table(write(root, text, name))
    assert len(str(error.value)) < 1000


def test_names_of_thousands_of_digits_are_in_the_order_of_numbers(root):
    long, longer = "1" * 5000, "2" + "0" * 5000
    rows = f"path,label\na.png,{longer}\nb.png,{long}\nd.png,9\n"
    assert read_table(write(root, rows)).classes == ("9", long, longer)
    assert sorted(["a10", "a9", "a09b", "a٣"], key=natural_key) == [
        "a٣",
        "a9",
        "a09b",
        "a10",
    ]


def test_soft_labels_of_many_classes_keep_no_zeros(root):
    for index in range(300):
        shutil.copy(root / "a.png", root / f"{index}.png")
    rows = (f"{i}.png,c{i};c{(i + 1) % 300},3;1" for i in range(300))
    dataset = read_table(write(root, "path,label,weight\n" + "\n".join(rows)))
    assert len(dataset.classes) == 300
    for index, example in enumerate(dataset.examples[:-1]):
        assert example.target == ClassShares((index, index + 1), (0.75, 0.25))
    stacked = dataset.targets.stack(
        dataset.classes, dataset.examples, [e.target for e in dataset.examples]
    )
    assert stacked.shares.sum(1).tolist() == [1.0] * 300
    assert stacked.label.tolist() == list(range(300))
    assert dataset.examples[-1].target == ClassShares((0, 299), (0.25, 0.75))


def test_shares_are_smoothed_over_all_classes():
    smooth = ClassShares((1,), (1.0,)).smooth(0.1, 4)
    row = np.zeros(4)
    smooth.write_to(row)
    assert row == pytest.approx([0.025, 0.925, 0.025, 0.025])
    again = smooth.smooth(0.5, 4)
    again.write_to(row)
    assert row == pytest.approx([0.1375, 0.5875, 0.1375, 0.1375])


def test_all_rows_that_come_twice_are_named_at_once(root):
    rows = ["path,label", "a.png,x", "b.png,y", "a.png,x", "d.png,x", "b.png,x"]
    with pytest.raises(DataError) as caught:
        read_table(write(root, "\n".join(rows) + "\n"))
    said = str(caught.value)
    assert "2 rows name a file again: labels.csv line 4, column 'path': 'a.png'" in said
    assert "labels.csv line 6, column 'path': 'b.png' is already in line 3" in said
    many = "path,label\n" + "a.png,x\nb.png,y\n" * 9
    with pytest.raises(DataError, match="16 rows name a file again, the first ten: "):
        read_table(write(root, many))
