"""vitral.data.shards.dataset: tar, Parquet and Arrow files as data sets."""

import io
import json
import multiprocessing
import os
import pickle
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vitral.data as data
from shard_files import labelled, number_of, pack, pack_rows, png
from vitral.data.dataset import Dataset, UnavailableError
from vitral.data.shards import dataset as shards
from vitral.data.shards.webdataset import index_tar
from vitral.errors import ConfigError, DataError, MissingExtraError
from vitral.tasks.classification.labels import ClassLabels

PREPROCESS = data.Preprocess(image_size=(6, 8))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Indices go to a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitral" / "data" / "shards"


def make(folder: Path, suffix: str) -> Path:
    """train of 3 x 40 pictures and val of 15; the label is the number modulo 3."""
    for shard in range(4):
        name = f"train-{shard:03d}" if shard < 3 else "validation-000"
        numbers = range(shard * 40, shard * 40 + (40 if shard < 3 else 15))
        file = folder / f"{name}{suffix}"
        if suffix == ".tar":
            pack(file, labelled(numbers))
        else:
            pack_rows(file, numbers, group=7)
    return folder


def loader_of(dataset: Dataset, workers: int = 0, split: str = "train") -> data.Loader:
    return data.Loader(
        dataset=dataset,
        examples=dataset.select(split),
        transform=data.EvalTransform(preprocess=PREPROCESS),
        batch_size=11,
        seed=3,
        shuffle=True,
        workers=workers,
    )


@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".arrow"])
def test_every_picture_has_its_label(suffix, tmp_path, cache):
    folder = make(tmp_path / "set", suffix)
    before = sorted((file.name, file.stat().st_mtime_ns) for file in folder.iterdir())
    for times in (1, 2):  # the second from the cached index
        dataset = data.open(folder)
        assert dataset.name == "set"
        assert dataset.classes == ("0", "1", "2")
        assert {
            key: sum(value.values()) for key, value in dataset.counts().items()
        } == {
            "train": 120,
            "val": 15,
        }
        assert len(list(cache.iterdir())) == 4, times
        reader = pickle.loads(pickle.dumps(dataset.reader))
        for place, example in enumerate(dataset.examples):
            assert number_of(dataset.read(example)) == place
            assert number_of(reader(example).image) == place
            assert example.label == (place % 3,)
    assert (
        dataset.examples[41].id
        == {
            ".tar": "train-001.tar/00041",
            ".parquet": "train-001.parquet/000001",
            ".arrow": "train-001.arrow/000001",
        }[suffix]
    )
    after = sorted((file.name, file.stat().st_mtime_ns) for file in folder.iterdir())
    assert before == after
    assert not ClassLabels.from_dataset(dataset).multi_label


@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".arrow"])
def test_any_number_of_workers_and_any_start_give_the_same_bits(suffix, tmp_path):
    dataset = data.open(make(tmp_path / "set", suffix))
    whole = list(loader_of(dataset).epoch(2))
    ids = [name for batch in whole for name in batch.id]
    assert sorted(ids) == sorted(example.id for example in dataset.select("train"))
    for workers in (1, 2):
        again = list(loader_of(dataset, workers).epoch(2, start=4))
        assert [batch.id for batch in again] == [batch.id for batch in whole[4:]]
        for one, other in zip(again, whole[4:], strict=True):
            assert one.image.equal(other.image)
            assert one.target.shares.equal(other.target.shares)
    orders = [loader_of(dataset).order(epoch) for epoch in (0, 1, 2)]
    assert orders[0] != orders[1] != orders[2]
    assert orders[2] == loader_of(dataset).order(2)
    # Ranks that each build some of the batches see the same ones.
    ranks = [dict(loader_of(dataset).enumerate_batches(2, rank, 2)) for rank in (0, 1)]
    merged = [value for _, value in sorted((ranks[0] | ranks[1]).items())]
    assert [batch.id for batch in merged] == [batch.id for batch in whole]


def test_the_order_mixes_windows_of_chunks(tmp_path, monkeypatch):
    from vitral.data.shards.shuffle import ShardOrder

    examples = tuple(
        data.dataset.Example(
            id=f"{n}", label=(0,), location=(n // 10, n // 5 % 2, n % 5)
        )
        for n in range(60)
    )
    order = ShardOrder(by_row_group=True, chunks=3)(examples, 4, 9)
    assert sorted(order) == list(range(60))
    windows = [{place // 5 for place in order[at : at + 15]} for at in range(0, 60, 15)]
    # Four windows of three row groups each, from all over.
    assert [len(window) for window in windows] == [3, 3, 3, 3]
    assert set.union(*windows) == set(range(12))
    assert order[:15] != sorted(order[:15])
    assert any(max(window) - min(window) > 4 for window in windows)
    monkeypatch.setattr("vitral.data.shards.shuffle.CHUNK", 4)
    # Single examples: chunks of 4, 4 and 2 in each shard of ten.
    order = ShardOrder(by_row_group=False, chunks=1)(examples, 4, 9)
    sizes, at = [], 0
    while at < 60:
        first = order[at : at + 4]
        size = 2 if min(first[:2]) % 10 == 8 else 4
        block = order[at : at + size]
        assert max(block) - min(block) == size - 1
        sizes.append(size)
        at += size
    assert sorted(sizes) == [2] * 6 + [4] * 12


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_group_is_read_once_an_epoch(workers, tmp_path, monkeypatch):
    """Also by a rank that builds every second batch."""
    from vitral.data.shards.readers import ParquetReader

    dataset = data.open(make(tmp_path / "set", ".parquet"))
    monkeypatch.setattr(shards, "WINDOW_BYTES", 6_000)
    dataset = data.open(tmp_path / "set")
    assert isinstance(dataset.order, shards.ShardOrder)
    assert 2 <= dataset.order.chunks < 18
    read = []
    load = ParquetReader.load
    monkeypatch.setattr(
        ParquetReader,
        "load",
        lambda self, *key: read.append(key) or load(self, *key),
    )
    for _ in loader_of(dataset).enumerate_batches(0, 0, 2):
        pass
    assert len(read) == len(set(read)) <= 18  # 3 shards of 40 rows in groups of 7


def test_labels_of_every_kind(tmp_path):
    for name, suffix, label, classes, first in (
        ("json", "json", lambda n: json.dumps({"label": "ab c"[n % 2 :]}), None, 0),
        (
            "words",
            "txt",
            lambda n: f"class {(10, 9)[n % 2]}",
            ("class 9", "class 10"),
            1,
        ),
        ("number", "json", lambda n: (12, 7)[n % 2], ("7", "12"), 1),
    ):
        folder = tmp_path / name
        pack(folder / "train-0.tar", labelled(range(8), label, suffix))
        dataset = data.open(folder, val=0, test=0)
        assert dataset.classes == (classes or ("ab c", "b c"))
        assert dataset.examples[0].label == (first,)
        assert dataset.examples[1].label == (1 - first,)


@pytest.mark.parametrize(
    ("suffix", "label"),
    [
        ("json", lambda n: json.dumps({"labels": [["cat", "dog"], ["owl"]][n % 2]})),
        ("txt", lambda n: ["cat;dog", "owl\n"][n % 2]),
    ],
)
def test_several_labels_in_a_tar_file(suffix, label, tmp_path):
    pack(tmp_path / "set/a.tar", labelled(range(9), label, suffix))
    dataset = data.open(tmp_path / "set", val=0, test=0)
    assert ClassLabels.from_dataset(dataset).multi_label
    assert dataset.classes == ("cat", "dog", "owl")
    assert [example.label for example in dataset.examples[:2]] == [(0, 1), (2,)]
    batch = next(loader_of(dataset).epoch(0))
    for name, target in zip(batch.id, batch.target.shares.tolist(), strict=True):
        assert target == ([0, 0, 1] if int(name[-1]) % 2 else [1, 1, 0])


def test_several_labels_in_parquet(tmp_path):
    features = {"label": {"feature": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}}
    features["image"] = {"_type": "Image"}
    metadata = json.dumps({"info": {"features": features}}).encode()
    pack_rows(
        tmp_path / "set/train.parquet",
        range(9),
        lambda n: [2, 0] if n % 2 else [1],
        metadata=metadata,
    )
    dataset = data.open(tmp_path / "set", val=0, test=0)
    assert ClassLabels.from_dataset(dataset).multi_label
    assert dataset.classes == ("x", "y", "z")
    assert [example.label for example in dataset.examples[:2]] == [(1,), (0, 2)]


@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".arrow"])
def test_shards_without_labels(suffix, tmp_path):
    file = tmp_path / f"set/a{suffix}"
    if suffix == ".tar":
        pack(file, [(f"{number}.png", png(number)) for number in range(9)])
    else:
        pack_rows(file, range(9), label=None)
    with pytest.raises(DataError, match=r"has 9 picture\(s\) and no label"):
        data.open(tmp_path / "set")
    dataset = data.open(tmp_path / "set", val=0, test=0, labels="optional")
    assert dataset.classes == ("images",)
    assert {example.label for example in dataset.examples} == {(0,)}
    assert [number_of(dataset.read(each)) for each in dataset.examples] == list(
        range(9)
    )


def test_names_of_classes_beside_the_shards(tmp_path):
    folder = tmp_path / "set"
    pack(folder / "train-0.tar", labelled(range(6), lambda n: n % 2))
    (folder / "classes.txt").write_text("zebra\napple\nunseen\n")
    assert data.open(folder, val=0, test=0).classes == ("zebra", "apple", "unseen")
    (folder / "classes.txt").unlink()
    about = {"features": {"image": {"_type": "Image"}, "label": {"names": ["b", "a"]}}}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    assert data.open(folder, val=0, test=0).classes == ("b", "a")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(
        DataError, match=r"dataset_info.json cannot be read .* Write one"
    ):
        data.open(folder)
    (folder / "dataset_info.json").unlink()
    (folder / "labels.txt").write_text("only\n")
    with pytest.raises(DataError, match="the label '0' is no class; train has only"):
        data.open(folder)


def test_what_datasets_writes(tmp_path):
    """Folders of `save_to_disk` and `to_parquet`, with the names of the classes."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "ant"])}
    )
    parts = {}
    for split, number in (("train", 8), ("test", 5)):
        rows = {
            "image": [{"bytes": png(row), "path": None} for row in range(number)],
            "label": [row % 2 for row in range(number)],
        }
        parts[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "disk")
    for split, part in parts.items():
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(tmp_path / f"hub/data/{split}-00000-of-00001.parquet")
    datasets.enable_progress_bars()
    for folder in ("disk", "hub"):
        dataset = data.open(tmp_path / folder, val=0)
        assert dataset.classes == ("dog", "ant")
        assert [len(dataset.select(split)) for split in ("train", "test")] == [8, 5]
        for example in dataset.select("test"):
            number = int(example.id.rpartition("/")[2])
            assert number_of(dataset.read(example)) == number
            assert example.label == (number % 2,)


def test_patterns_and_single_files(tmp_path, monkeypatch):
    make(tmp_path / "set", ".tar")
    monkeypatch.chdir(tmp_path)
    by_range = data.open("set/train-{000..001}.tar", val=0, test=0)
    assert len(by_range.examples) == 80
    assert by_range.examples[0].id == "train-000.tar/00000"
    assert len(data.open("set/{train,validation}-*.tar").examples) == 135
    assert len(data.open("set/train-*.tar", val=0, test=0).examples) == 120
    single = data.open(tmp_path / "set/validation-000.tar", val=0.0, test=0)
    assert len(single.select("train")) == 15
    assert single.notes == (
        "no shard is called train, so the names of shards give no split",
    )


def test_splits_by_hash_hardly_depend_on_other_shards(tmp_path):
    for shard in range(3):
        numbers = range(shard * 50, shard * 50 + 50)
        pack(tmp_path / f"set/part-{shard}.tar", labelled(numbers))
    dataset = data.open(tmp_path / "set")
    splits = {example.id: example.split for example in dataset.examples}
    assert set(splits.values()) == {"train", "val", "test"}
    (tmp_path / "set/part-0.tar").unlink()
    rest = data.open(tmp_path / "set").examples
    assert (
        sum(splits[example.id] != example.split for example in rest) < 20
    )  # 46 by chance
    grouped = data.open(tmp_path / "set", group_by=r"/0*(\d+)\d$")
    groups: dict[str, set[str]] = {}
    for example in grouped.examples:
        groups.setdefault(example.group, set()).add(example.split)
    assert set(groups) == {str(ten) for ten in range(5, 15)}
    assert all(len(found) == 1 for found in groups.values())


CALLS: list[str] = []


class Harm:
    """What a pickle would run."""

    def __reduce__(self):
        return CALLS.append, ("run",)


def test_what_is_in_a_tar_file_beside_pictures_and_labels(tmp_path):
    members = labelled(range(12))
    for suffix in ("pkl", "pickle", "pyd", "pth"):
        members += [(f"0000{n}.{suffix}", pickle.dumps(Harm())) for n in range(2)]
    members += [
        ("00003.seg.png", png(3)),
        ("._00003.png", b"x"),
        ("README", b"x"),
        ("00098.png", png(98)),
        ("00099.cls", b"1"),
        ("00097.png", png(97)),
        ("00097.jpg", png(97)),
        ("00097.cls", b"1"),
        ("00096.png", png(96)),
        ("00096.cls", b"one"),
        ("00095.png", b""),
        ("00095.cls", b"1"),
        ("00001.cls", b"2"),
    ]
    file = pack(tmp_path / "set/a.tar", members)
    with tarfile.open(file, "a") as archive:
        info = tarfile.TarInfo("00094.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    dataset = data.open(tmp_path / "set", val=0, test=0)
    assert CALLS == []
    assert len(dataset.examples) == 12
    assert dataset.notes == ()
    assert {
        item.path.removeprefix("a.tar/"): item.reason for item in dataset.ignored
    } == {
        "00000.pkl": "a .pkl member, which is never unpickled; 2 so",
        "00000.pickle": "a .pickle member, which is never unpickled; 2 so",
        "00000.pyd": "a .pyd member, which is never unpickled; 2 so",
        "00000.pth": "a .pth member, which is never unpickled; 2 so",
        "00003.seg.png": "a .seg.png member is neither a picture nor a label",
        "._00003.png": "hidden",
        "README": "without an extension",
        "00001.cls": "a second member of this name",
        "00098": "no label: .cls is missing",
        "00099": "no picture: a label alone",
        "00097": "has two pictures, 00097.png and 00097.jpg; members belong together "
        "by the name up to its first dot",
        "00096": "no label: .cls must be a whole number, or several joined by `;`",
        "00095": "an empty picture",
        "00094.png": "a symbolic link; links are not followed",
    }


@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".arrow"])
def test_a_truncated_shard_is_reported_and_the_rest_used(suffix, tmp_path):
    folder = make(tmp_path / "set", suffix)
    file = folder / f"train-001{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    dataset = data.open(folder)
    found = data.check(dataset, workers=2)
    assert found.bad == ()
    (listed,) = [item for item in dataset.ignored if item.path == file.name]
    (note,) = [note for note in found.dataset.notes if file.name in note]
    assert note.startswith(f"shard {file.name}: {listed.reason}; ")
    assert "cut" in note
    used = sum(example.id.startswith(file.name) for example in dataset.examples)
    if suffix == ".parquet":  # the footer is at its end
        assert note.endswith("left out")
        assert used == 0
    else:
        assert note.endswith(f"{used} image(s) are used")
        assert 10 < used < 30
    assert len(dataset.examples) == 95 + used
    for batch in loader_of(dataset).epoch(0):
        assert batch.image.isfinite().all()


def test_cut_anywhere(tmp_path):
    file = pack(tmp_path / "x.tar", labelled(range(8)))
    whole = file.read_bytes()
    index = index_tar(file)
    ends = [index.first[place] + index.second[place] for place in range(8)]
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 200):
        file.write_bytes(whole[:cut])
        index = index_tar(file)
        # A picture counts once the label behind it is there too.
        used = len(index.keys) if index.source else 0
        assert used == sum(-(-end // 512) * 512 + 513 <= cut for end in ends)
        assert index.fault or cut >= 8 * 2048 + 512
    # Before its first label: it does not count as a set without labels.
    file.write_bytes(whole[:1024])
    pack(tmp_path / "y.tar", labelled(range(8)))
    dataset = data.open(f"{tmp_path}/*.tar", val=0, test=0)
    assert {example.id[:6] for example in dataset.examples} == {"y.tar/"}
    assert dataset.notes[0].endswith("left out")


def test_a_damaged_picture_is_a_bad_file(tmp_path):
    members = labelled(range(30))
    members[8] = ("00004.png", b"no picture")
    pack(tmp_path / "set/a.tar", members)
    dataset = data.open(tmp_path / "set", val=0, test=0)
    with pytest.raises(DataError, match=r"1 of 30 images cannot be decoded"):
        data.check(dataset)
    found = data.check(dataset, max_bad=0.1)
    assert [item.path for item in found.bad] == ["a.tar/00004"]


def test_a_picture_that_is_a_path_is_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(1))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 6
    table = pa.table({"image": pa.array(rows, kind), "label": [0, 1] * 3})
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set/a.parquet")
    dataset = data.open(tmp_path / "set", val=0, test=0)
    with pytest.raises(DataError, match=r"6 of 6 images .* a path is not fol"):
        data.check(dataset)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".arrow"])
def test_a_shard_that_changes_stops_the_run(suffix, workers, tmp_path):
    folder = make(tmp_path / "set", suffix)
    dataset = data.open(folder)
    file = folder / f"train-002{suffix}"
    file.write_bytes(file.read_bytes() + b"\0" * 512)
    with pytest.raises(
        UnavailableError,
        match=rf"^train-002{suffix} changed while it was in use: it had",
    ):
        list(loader_of(dataset, workers).epoch(0))
    file.unlink()
    copy = pickle.loads(pickle.dumps(dataset))  # which holds no file open
    with pytest.raises(
        UnavailableError, match=r"can no longer be opened \(No such file"
    ):
        list(loader_of(copy, workers).epoch(0))


def test_the_cached_index(tmp_path, cache, monkeypatch):
    file = pack(tmp_path / "set/a.tar", labelled(range(9)))
    fresh = data.open(file, val=0, test=0).examples
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for damage in (b"", whole[:100], whole.replace(b'"first":[', b'"first":[7,', 1)):
        kept.write_bytes(damage)
        assert data.open(file, val=0, test=0).examples == fresh
        assert kept.read_bytes() == whole  # built again
    monkeypatch.setattr(shards, "index_tar", lambda file: pytest.fail("built"))
    assert data.open(file, val=0, test=0).examples == fresh
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[2]))
    changed = pack(file, labelled(range(9), lambda n: n % 2))
    os.utime(changed, ns=(0, 0))
    assert data.open(file, val=0, test=0).classes == ("0", "1")
    # Where nothing can be written, nothing is kept.
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    assert len(data.open(file, val=0, test=0).examples) == 9


def build(folder: str, times: int) -> None:
    for _ in range(times):
        assert len(data.open(folder).examples) == 135


def test_builders_at_once_leave_one_whole_index(tmp_path, cache):
    """Processes, one of them killed, and threads."""
    folder = str(make(tmp_path / "set", ".tar"))
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=build, args=(folder, 2)) for _ in range(3)]
    for process in processes:
        process.start()
    processes[0].kill()
    threads = [threading.Thread(target=build, args=(folder, 3)) for _ in range(3)]
    for each in threads:
        each.start()
    for each in (*threads, *processes):
        each.join()
    assert [process.exitcode for process in processes[1:]] == [0, 0]
    for file in cache.glob("[!.]*.json"):
        digest, _, content = file.read_text().partition("\n")
        assert len(digest) == 64
        json.loads(content)
    build(folder, 1)


def feed(folder: str, note: str) -> None:
    """Read with a worker, whose number is noted, until killed."""
    batches = loader_of(data.open(folder), workers=1).epoch(0)
    next(batches)
    children = Path(note).with_suffix(".part")
    numbers = [child.pid for child in multiprocessing.active_children()]
    children.write_text(" ".join(map(str, numbers)))
    children.rename(note)
    threading.Event().wait(300)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_ends_with_a_killed_process(tmp_path):
    folder = str(make(tmp_path / "set", ".tar"))
    note = tmp_path / "workers"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=feed, args=(folder, str(note)))
    process.start()
    deadline = time.monotonic() + 120
    while not note.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (worker,) = map(int, note.read_text().split())
    assert alive(worker)
    process.kill()
    process.join()
    while alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (
            "pipe:cat x.tar",
            r"Commands are never run: got 'pipe:cat x.tar'. Write the out",
        ),
        ("cat x.tar |", r"Commands are never run"),
        (
            "https://host/x.tar",
            r"Shards are not opened by URL: got 'https://host/x.tar'",
        ),
        ("{https,http}://host/{0..3}.tar", r"Shards are not opened by URL"),
        ("s3://bucket/x.parquet", r"Shards are not opened by URL"),
        ("x-{0..}.tar", r"\{0\.\.\} must be a range such as \{000\.\.009\} or words"),
        ("x-{9..0}.tar", r"must go up"),
        ("{0..999}{0..999}.tar", r"stands for more than 100,000 shards"),
        ("x.tar.gz", r"x.tar.gz is compressed, .*`gunzip x.tar.gz`"),
    ],
)
def test_names_that_are_refused(word, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        data.open(word)


def test_shards_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "set", ".tar")
    for word, sentence in (
        ("set/x.tar", r"^set/x.tar is not there"),
        ("set/x-*.tar", r"No file matches set/x-\*.tar"),
        ("set/train-{001..004}.tar", r"2 shard\(s\) that are not there: set/train-003"),
    ):
        with pytest.raises(DataError, match=sentence):
            data.open(word)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"a.tar": None, "b.parquet": None},
            r"mixes kinds of shards: b.parquet, a.tar",
        ),
        (
            {"train-0.tar": None, "b.tar": None},
            r"train-0.tar names a split, b.tar does",
        ),
        ({"a.tar": "cls", "b.tar": "txt"}, r"a.tar has labels from .cls, b.tar .txt"),
        ({"a.tar": "nothing"}, r"holds no image with a label .* neither a picture nor"),
        ({"a.tar": "one"}, r"names one class only, '1'"),
        (
            {"train-0.tar": "cls", "val-0.tar": "more"},
            r"val-0.tar: the label '5' is no",
        ),
    ],
)
def test_sets_that_cannot_be_used(files, sentence, tmp_path):
    for name, kind in files.items():
        file = tmp_path / "set" / name
        if kind in (None, "cls"):
            if file.suffix == ".tar":
                pack(file, labelled(range(6)))
            else:
                pack_rows(file, range(6))
        elif kind == "txt":
            pack(file, labelled(range(6), suffix="txt"))
        elif kind == "nothing":
            pack(file, labelled(range(6), suffix="xml"))
        else:
            pack(
                file, labelled(range(6), lambda n, kind=kind: 1 if kind == "one" else 5)
            )
    with pytest.raises(DataError, match=sentence):
        data.open(tmp_path / "set")


def test_columns_that_cannot_be_used(tmp_path):
    for columns, sentence in (
        ({"x": [1, 2]}, r"one column of pictures; its columns are x \(int64\)"),
        (
            {"x": [b"1", b"2"], "y": [0, 1]},
            r"a.parquet has 2 picture\(s\) and no label.*called label or labels",
        ),
        ({"x": [b"1", b"2"], "label": [0.5, 1.5]}, r"without a usable label"),
    ):
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "set/a.parquet")
        with pytest.raises(DataError, match=sentence):
            data.open(tmp_path / "set")
    (tmp_path / "set/a.parquet").write_bytes(b"no Parquet file at all")
    with pytest.raises(DataError, match=r"a.parquet: it is cut off or no Parquet file"):
        data.open(tmp_path / "set")


def test_compressed_files_pipes_and_no_pyarrow(tmp_path, monkeypatch):
    import gzip

    (tmp_path / "set").mkdir()
    out = io.BytesIO()
    with gzip.open(out, "wb") as packed:
        packed.write(b"x")
    (tmp_path / "set/a.tar").write_bytes(out.getvalue())
    os.mkfifo(tmp_path / "set/b.tar")
    with pytest.raises(DataError, match=r"unpack it once with .*not a regular file"):
        data.open(tmp_path / "set")
    pack_rows(tmp_path / "rows/a.parquet", range(6))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install vitral\[hf\]"):
        data.open(tmp_path / "rows")


def test_a_folder_of_images_beside_its_tar_file_stays_one(tmp_path):
    for number in range(6):
        file = tmp_path / f"set/{'ab'[number % 2]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    pack(tmp_path / "set/original.tar", labelled(range(3)))
    dataset = data.open(tmp_path / "set", val=0, test=0)
    assert dataset.classes == ("a", "b")
    assert [item.path for item in dataset.ignored] == ["original.tar"]
    with pytest.raises(DataError, match="holds images, but a video model needs clips"):
        data.open(tmp_path / "set/original.tar", kind="clips")


def test_shards_sorted_by_class_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CHUNKS", 2)
    pack(tmp_path / "set/a.tar", labelled(range(640), lambda n: n // 160))
    (note,) = data.open(tmp_path / "set").notes
    assert note.startswith("shards are sorted by class: an epoch mixes only 2 chunks")
    pack(tmp_path / "set/a.tar", labelled(range(640)))
    assert data.open(tmp_path / "set").notes == ()
