"""vitral.data.sources.huggingface: Parquet files as the Hugging Face hub holds them,
without it."""

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

import vitral.data as data
from vitral.data.sources import huggingface
from vitral.errors import ConfigError, DataError, MissingExtraError

WORDS = ["zebra", "apple", "class 10"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    huggingface._load_splits.cache_clear()
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def png(red: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (9, 7), (red, 40, 200)).save(out, "PNG")
    return out.getvalue()


def write(
    folder: Path, sizes: dict[str, int], label: Any, kind: Any, name: str = "label"
) -> str:
    """A folder with data/SPLIT-00000-of-00001.parquet; the red of row i is i."""
    (folder / "data").mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), name: kind})
    for split, number in sizes.items():
        rows = {
            "image": [{"bytes": png(row), "path": None} for row in range(number)],
            name: [label(row) for row in range(number)],
        }
        part = datasets.Dataset.from_dict(rows, features=features)
        part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return f"hf:{folder}"


def test_a_set_with_class_names(tmp_path):
    kind = datasets.ClassLabel(names=WORDS)
    name = write(
        tmp_path / "set",
        {"train": 8, "validation": 5, "test": 4},
        lambda r: r % 3,
        kind,
    )
    dataset = data.open(name, root=tmp_path)
    # As published, not sorted: a label is an index into these.
    assert dataset.classes == tuple(WORDS)
    counts = {split: sum(found.values()) for split, found in dataset.counts().items()}
    assert counts == {"train": 8, "val": 5, "test": 4}
    for example in dataset.examples:
        row = int(example.id.split("/")[1])
        assert example.label == (row % 3,)
        pixels = np.asarray(dataset.read(example))
        assert pixels.shape == (7, 9, 3)
        assert (pixels[0, 0] == [row, 40, 200]).all()
    assert dataset.select("val")[4].id == "validation/000004"
    reader = pickle.loads(pickle.dumps(dataset.reader))
    assert reader(dataset.examples[3]).image.size == (9, 7)
    assert (tmp_path / "huggingface").is_dir()


def test_words_and_numbers_become_classes(tmp_path):
    words = ["b 10", "b 9", "a"]
    name = write(
        tmp_path / "words",
        {"train": 60},
        lambda row: words[row % 3],
        datasets.Value("string"),
        "class",
    )
    dataset = data.open(name, root=tmp_path)
    assert dataset.classes == ("a", "b 9", "b 10")
    assert {e.label[0] for e in dataset.examples if e.id.endswith("000001")} == {1}
    # One split is divided by hash.
    assert set(dataset.counts()) == {"train", "val", "test"}
    numbers = write(
        tmp_path / "numbers",
        {"train": 9, "test": 3},
        lambda row: 7 + 5 * (row % 3),
        datasets.Value("int64"),
    )
    dataset = data.open(numbers, root=tmp_path, val=0)
    assert dataset.classes == ("7", "12", "17")
    assert [e.label for e in dataset.select("test")] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("sizes", "kind", "name", "sentence"),
    [
        (
            {"train": 3, "extra": 2},
            "int64",
            "label",
            "has the split extra; splits must",
        ),
        ({"train": 3}, "int64", "answer", r"columns are image \(Image\), answer \(Val"),
        ({"train": 3}, "float32", "label", "column label must hold a word or a whole"),
    ],
)
def test_sets_that_do_not_fit(sizes, kind, name, sentence, tmp_path):
    where = write(tmp_path / "set", sizes, lambda row: row, datasets.Value(kind), name)
    with pytest.raises(DataError, match=sentence):
        data.open(where, root=tmp_path)


def test_a_label_that_only_test_has(tmp_path):
    name = write(
        tmp_path / "set",
        {"train": 3, "test": 4},
        lambda row: "ab" * (row // 3) or "c",
        datasets.Value("string"),
    )
    with pytest.raises(DataError, match="row 3 of test has the label ab, which is no"):
        data.open(name, root=tmp_path)


def test_a_set_without_pictures(tmp_path):
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"label": [1, 2]}).to_parquet(tmp_path / "set/a.parquet")
    with pytest.raises(
        DataError, match=r"one column of pictures; its columns are label"
    ):
        data.open(f"hf:{tmp_path}/set", root=tmp_path)


def test_what_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"hf:.*absent cannot be loaded by datasets: "):
        data.open(f"hf:{tmp_path}/absent", root=tmp_path)
    with pytest.raises(ConfigError, match="`group_by` works on folders and tables"):
        data.open("hf:some/set", root=tmp_path, group_by="folder")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install vitral\[hf\]"):
        data.open("hf:some/set", root=tmp_path)
