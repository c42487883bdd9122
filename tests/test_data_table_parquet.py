"""A metadata.parquet gives the labels of a folder, as `datasets` reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitral import data
from vitral.errors import DataError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(12):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def write(folder: Path, features: Any = None, **columns: list[Any]) -> Path:
    """Write columns, with the names of classes as `datasets` does."""
    table = arrow.table(columns)
    if features:
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    parquet.write_table(table, folder / "metadata.parquet")
    return folder / "metadata.parquet"


def labels(dataset: data.Dataset) -> dict[str, list[str]]:
    return {
        example.id: [dataset.classes[i] for i in example.label]
        for example in dataset.examples
    }


FILES = [f"{number}.png" for number in range(12)]
NAMES = ["cow", "ant", "bee"] * 4


@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_labels_of_a_folder(root, given):
    file = write(root, file_name=FILES, label=NAMES, note=["x"] * 12)
    dataset = data.open(root if given == "folder" else file)
    assert dataset.classes == ("ant", "bee", "cow")
    assert labels(dataset) == {f: [n] for f, n in zip(FILES, NAMES, strict=True)}
    assert data.describe_source(root).columns == ("path", "label", "note")


def test_what_datasets_reads_is_read(root, monkeypatch):
    """Of the same folder both list the same files with the same labels."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write(root, file_name=FILES, label=NAMES)
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(root), cache_dir=str(root / ".cache")
    )["train"].cast_column("image", datasets.Image(decode=False))
    expected = {Path(row["image"]["path"]).name: [row["label"]] for row in theirs}
    assert labels(data.open(root)) == expected


def test_numbers_of_a_class_label_are_its_names(root):
    features = {"label": {"names": ["zebra", "ape"], "_type": "ClassLabel"}}
    write(root, features, file_name=FILES, label=[0, 1] * 6)
    dataset = data.open(root)
    assert dataset.classes == ("ape", "zebra")
    assert labels(dataset)["0.png"] == ["zebra"]
    write(root, features, file_name=FILES, label=[0, 1] * 5 + [0, 2])
    with pytest.raises(DataError, match="line 12: the label 2 is not among its 2"):
        data.open(root)
    write(root, features, file_name=FILES, label=[0, 1] * 5 + [0, -1])
    with pytest.raises(DataError, match="line 12, column 'label': it is empty"):
        data.open(root)


def test_tables_of_split_folders(root):
    for split, part in (("train", slice(0, 9)), ("validation", slice(9, 12))):
        (root / split).mkdir()
        for name in FILES[part]:
            (root / name).rename(root / split / name)
        write(root / split, file_name=FILES[part], label=NAMES[part])
    dataset = data.open(root)
    assert labels(dataset)["validation/9.png"] == ["cow"]
    assert [len(dataset.select(s)) for s in ("train", "val", "test")] == [9, 3, 0]


def test_lists_of_labels_and_columns_of_marks(root):
    lists = [["a", "b"], ["a"], []] * 4
    write(root, file_name=FILES, label=lists)
    assert labels(data.open(root)) == dict(zip(FILES, lists, strict=True))
    write(root, file_name=FILES, a=[1, 1, 0] * 4, b=[True, False, False] * 4)
    assert labels(data.open(root)) == dict(zip(FILES, lists, strict=True))


def test_numbers_to_learn(root):
    write(root, file_name=FILES, price=[float(n) for n in range(12)])
    dataset = data.open(root, columns=("price",))
    assert dataset.examples[3].columns == (3.0,)


def test_two_tables_in_a_folder_are_refused(root):
    write(root, file_name=FILES, label=NAMES)
    (root / "metadata.csv").write_text("file_name,label\n0.png,a\n1.png,b\n")
    with pytest.raises(DataError, match=r"both metadata.csv and metadata.parquet. R"):
        data.open(root)


def test_a_broken_table_is_one_sentence(root):
    file = write(root, file_name=FILES, label=NAMES)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"metadata.parquet: it is cut off or no Parq"):
        data.open(root)
    write(root, file_name=FILES, label=["x" * 100_001] * 12)
    with pytest.raises(DataError, match="line 1: a text of 100,001 characters"):
        data.open(root)
    write(root, file_name=["0.png"] * 2_000_000, label=["x"] * 2_000_000)
    with pytest.raises(DataError, match="it claims 2,000,000 rows in"):
        data.open(root)


def test_shards_of_that_name_stay_shards(root):
    file = root / "0.png"
    pictures = [{"bytes": file.read_bytes(), "path": None}] * 2
    for name in FILES:
        (root / name).unlink()
    write(root, image=pictures, label=["a", "b"])
    assert data.describe_source(root).kind == "shards"
