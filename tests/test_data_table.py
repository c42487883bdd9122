"""vitral.data.sources.table: rows to examples, and what is said about a wrong row."""

import json
from pathlib import Path

import pytest
from PIL import Image

import vitral.data as data
from vitral.data.sources.table import read_table
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
        assert targets == [(0.25, 0.75, 0.0), None, (0.0, 0.5, 0.5)]
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
        ("path,label\n/a.png,x\n", "line 2, column 'path': '/a.png' is absolute"),
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
