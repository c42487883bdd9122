"""vitral.data.shards.remote: Parquet files behind HTTP, on a server of these tests."""

import functools
import http.server
import io
import os
import pickle
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

import vitral.data as data
from shard_files import number_of, pack_rows
from vitral.data import split
from vitral.data.dataset import Dataset, UnavailableError
from vitral.data.shards import remote
from vitral.errors import DataError, MissingExtraError


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files with ranges; notes what was asked for, and fails when told to."""

    asked: ClassVar[list[tuple[str, int]]] = []
    failures = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if Ranges.failures > 0:
            Ranges.failures -= 1
            self.send_error(503)
        elif wanted is None or not path.is_file():
            super().do_GET()
        else:
            first, last = (int(number) for number in wanted.groups())
            content = path.read_bytes()
            part = content[first : last + 1]
            Ranges.asked.append((path.name, len(part)))
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            span = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
            self.end_headers()
            self.wfile.write(part)

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # its name
        pass


class Ranged(io.RawIOBase):
    """A file of the server, read by ranges."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.place = url, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (0, self.place, self.size)[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: memoryview) -> int:
        last = min(self.place + len(buffer), self.size) - 1
        if last < self.place:
            return 0
        span = {"Range": f"bytes={self.place}-{last}"}
        request = urllib.request.Request(self.url, headers=span)
        try:
            with urllib.request.urlopen(request) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            raise
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)


class Web:
    """The part of an fsspec file system that is used, over HTTP."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def find(self, folder: str) -> list[str]:
        return [f"{folder}/{path}" for path in self.paths]

    def info(self, path: str) -> dict[str, object]:
        request = urllib.request.Request(path, method="HEAD")
        with urllib.request.urlopen(request) as answer:
            headers = answer.headers
        return {"size": headers["Content-Length"], "mtime": headers["Last-Modified"]}

    def open(self, path: str, mode: str, cache_type: str) -> Ranged:
        assert (mode, cache_type) == ("rb", "none")
        return Ranged(path, int(str(self.info(path)["size"])))


@pytest.fixture
def served(tmp_path):
    """A folder, and the address under which it is served."""
    folder = tmp_path / "hub"
    folder.mkdir()
    handler = functools.partial(Ranges, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Ranges.asked, Ranges.failures = [], 0
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def make(folder: Path, rows: int = 30) -> None:
    for shard, name in enumerate(("train-00000", "train-00001", "validation-00000")):
        numbers = range(shard * rows, shard * rows + rows)
        pack_rows(folder / f"data/{name}.parquet", numbers, group=6)


def opened(served: tuple[Path, str], root: Path, config: str = "") -> Dataset:
    folder, address = served
    system = Web([file.relative_to(folder).as_posix() for file in folder.rglob("*.*")])
    paths = remote.list_parquet_files(system, address)
    listed = remote.read_remote(
        "set", system, address, paths, config=config, root=root, unlabelled=False
    )
    return split.assign(listed, seed=0, val=0, test=0)


def loader_of(dataset: Dataset, workers: int = 0) -> data.Loader:
    return data.Loader(
        dataset=dataset,
        examples=dataset.select("train"),
        transform=data.EvalTransform(preprocess=data.Preprocess(image_size=(6, 8))),
        batch_size=11,
        shuffle=True,
        workers=workers,
    )


def test_a_remote_set_is_the_local_one(served, tmp_path):
    folder, _ = served
    make(folder)
    here = data.open(folder, root=tmp_path)
    there = opened(served, tmp_path)
    assert [each.id for each in there.examples] == [each.id for each in here.examples]
    assert there.fingerprint() == here.fingerprint()
    for example in there.select("val"):
        assert number_of(there.read(example)) == 60 + int(example.id[-6:])
    local = list(loader_of(here).epoch(3))
    for workers in (0, 2):
        remote = list(loader_of(there, workers).epoch(3, start=2))
        assert [batch.id for batch in remote] == [batch.id for batch in local[2:]]
        for one, other in zip(remote, local[2:], strict=True):
            assert one.image.equal(other.image)


def test_what_is_fetched(served, tmp_path):
    folder, _ = served
    make(folder, rows=120)
    opened(served, tmp_path)
    assert Ranges.asked
    Ranges.asked = []
    dataset = opened(served, tmp_path)
    assert Ranges.asked == []  # the index is kept
    copies = [pickle.loads(pickle.dumps(dataset)) for _ in range(2)]
    for rank, copy in enumerate(copies):
        list(loader_of(copy).enumerate_batches(0, rank, 2))
    # Each row group once, whatever the number of processes; then the footers.
    train = sum(file.stat().st_size for file in folder.rglob("train*"))
    assert sum(number for _, number in Ranges.asked) < 1.9 * train
    Ranges.asked = []
    list(loader_of(pickle.loads(pickle.dumps(dataset))).epoch(1))
    assert Ranges.asked == []  # all of it is still on the disk


def test_listing_fetches_no_pictures(served, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    blobs = [os.urandom(5_000) for _ in range(40)]
    table = pa.table({"image": blobs, "label": [0, 1] * 20})
    pq.write_table(table, served[0] / "train.parquet", row_group_size=10)
    assert len(opened(served, tmp_path).examples) == 40
    assert 0 < sum(number for _, number in Ranges.asked) < 80_000  # of 200,000


def test_the_disk_is_not_filled(tmp_path):
    import pyarrow as pa

    spool = remote.RowGroupCache(folder=tmp_path / "rows", limit=50_000)
    fetched = []

    def fetch(key: str) -> pa.ChunkedArray:
        fetched.append(key)
        return pa.chunked_array([[key.encode() * 5_000]])

    tables = {}
    for key in "abcdefgabgh":
        tables[key] = spool.get(key, functools.partial(fetch, key))
        files = list((tmp_path / "rows").glob("*.arrow"))
        assert sum(file.stat().st_size for file in files) < 2 * 50_000
    assert "".join(fetched) == "abcdefgh"
    assert tables["a"][0].as_py() == b"a" * 5_000
    for key in "ijklmnopqrst":
        spool.get(key, functools.partial(fetch, key))
    assert len(list((tmp_path / "rows").glob("*.arrow"))) < 12
    assert tables["a"][0].as_py() == b"a" * 5_000  # also after its file is gone
    spool.get("a", functools.partial(fetch, "a"))
    assert fetched[-1] == "a"
    (damaged,) = (
        file
        for file in (tmp_path / "rows").glob("*.arrow")
        if file.name.startswith("ca978112")  # the SHA-256 of a
    )
    damaged.write_bytes(b"x")
    assert spool.get("a", functools.partial(fetch, "a"))[0].as_py()[:1] == b"a"


def test_a_network_that_fails(served, tmp_path, monkeypatch):
    folder, _ = served
    make(folder)
    monkeypatch.setattr(remote, "RETRY_DELAYS", (0.0, 0.0))
    dataset = opened(served, tmp_path)
    Ranges.failures = 2
    batch = next(loader_of(dataset).epoch(0))
    assert len(batch.id) == 11  # nothing is left out
    Ranges.failures = 10**6
    with pytest.raises(UnavailableError, match=r"read 3 times .* with --resume"):
        list(loader_of(pickle.loads(pickle.dumps(dataset))).epoch(0))


def test_configurations(served, tmp_path):
    folder, _ = served
    for name in ("plain", "fine"):
        pack_rows(folder / f"{name}/train-0.parquet", range(9 if name == "fine" else 6))
    with pytest.raises(DataError, match="set has the configurations fine, plain: give"):
        opened(served, tmp_path)
    assert len(opened(served, tmp_path, "fine").examples) == 9
    with pytest.raises(DataError, match="configurations fine, plain"):
        opened(served, tmp_path, "coarse")


class Hub:
    """As much of huggingface_hub's file system as is used."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.local = folder, fsspec.filesystem("file")

    def find(self, path: str) -> list[str]:
        if "absent" in path:
            raise FileNotFoundError(path)
        inside = self.folder / path
        return [f"{path}/{f.relative_to(inside)}" for f in inside.rglob("*.*")]

    def info(self, path: str) -> dict[str, object]:
        return {"size": os.path.getsize(self.folder / path), "blob_id": "1a"}

    def open(self, path: str, mode: str, cache_type: str) -> object:
        return self.local.open(str(self.folder / path), mode)


def test_names_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: hub)
    make(tmp_path / "hub/datasets/some/set")
    converted = tmp_path / "hub/datasets/some/other@~parquet/default"
    pack_rows(converted / "train/0000.parquet", range(9))
    pack_rows(converted / "test/0000.parquet", range(6))
    dataset = data.open("hf-stream:some/set", root=tmp_path)
    assert dataset.name == "hf-stream:some/set"
    assert len(dataset.select("train")) == 60
    assert number_of(dataset.read(dataset.examples[31])) == 31
    other = data.open("hf-stream:some/other:default", root=tmp_path, val=0)
    assert {key: len(other.select(key)) for key in ("train", "test")} == {
        "train": 9,
        "test": 6,
    }
    (tmp_path / "hub/datasets/some/empty").mkdir()
    with pytest.raises(DataError, match=r"has no Parquet files\. Give hf:OWNER"):
        data.open("hf-stream:some/empty", root=tmp_path)
    with pytest.raises(DataError, match=r"hf-stream:some/absent cannot be reached \("):
        data.open("hf-stream:some/absent", root=tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install vitral\[hf\]"):
        data.open("hf-stream:some/set", root=tmp_path)
