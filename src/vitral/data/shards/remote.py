"""Parquet files of the Hugging Face hub, read by ranges where they are.

`hf-stream:OWNER/NAME` or `hf-stream:OWNER/NAME:CONFIG`. Examples, order and splits are
those of the same files on a disk. A row group is fetched once a machine and epoch: it
waits on the disk, in a folder of limited size, for the other processes.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic
from vitral.data.dataset import Dataset, UnavailableError
from vitral.data.order import natural_key
from vitral.data.shards.dataset import IndexedShard, build_dataset
from vitral.data.shards.index import ShardIndex, load_or_build_index
from vitral.data.shards.parquet import import_pyarrow, index_parquet, one_line
from vitral.data.shards.paths import ShardSet, infer_split
from vitral.data.shards.readers import Shard
from vitral.errors import DataError, MissingExtraError, VitralError

PREFIX = "hf-stream:"
CACHE_BYTES = 4 << 30
"""Row groups on the disk take at most about so much."""
RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt at what the network did not give."""
_LOCKS = 64


@dataclass(frozen=True, kw_only=True)
class RowGroupCache:
    """Row groups on the disk, for all processes of a machine."""

    folder: Path
    limit: int = CACHE_BYTES

    def get(self, key: str, fetch: Callable[[], Any]) -> Any:
        """The table of a key, mapped; `fetch` gives it where it is not there yet."""
        name = hashlib.sha256(key.encode()).hexdigest()
        file = self.folder / f"{name}.arrow"
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self._open_mapped(file)
        if found is None:
            with self._lock(int(name[:8], 16) % _LOCKS):
                found = self._open_mapped(file)  # another process was quicker
                if found is None:
                    found = fetch()
                    self._trim()
                    write_atomic(file, lambda path: self._write(path, found))
        return found

    def _open_mapped(self, file: Path) -> Any:
        """None where there is no whole file."""
        arrow = import_pyarrow("A shard")
        try:
            with arrow.memory_map(str(file)) as mapped:
                table = arrow.ipc.open_file(mapped).read_all()
            os.utime(file)  # used last
        except (OSError, arrow.ArrowException):
            return None
        return table.column(0)

    def _write(self, path: Path, column: Any) -> None:
        arrow = import_pyarrow("A shard")
        table = arrow.table({"picture": column})
        with arrow.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)

    def _trim(self) -> None:
        """Remove what was used longest ago; a mapped file stays until it is let go."""
        held = []
        for file in self.folder.glob("[!.]*.arrow"):
            try:
                status = file.stat()
            except OSError:
                continue  # another process trims
            held.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in held)
        for _, size, file in sorted(held):
            if total <= self.limit:
                break
            file.unlink(missing_ok=True)
            total -= size

    @contextmanager
    def _lock(self, number: int) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # without it two processes may both fetch
            yield
            return
        # The lock of a process that dies goes with it.
        descriptor = os.open(self.folder / f".lock-{number}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class RemoteFiles:
    """Files of an fsspec file system below a folder."""

    system: Any
    root: str
    cache: RowGroupCache
    stats: dict[str, tuple[int, int | str]] = field(default_factory=dict, compare=False)

    def stat(self, path: str) -> tuple[int, int | str]:
        if path not in self.stats:
            about = self.system.info(f"{self.root}/{path}")
            names = ("blob_id", "etag", "ETag", "mtime", "created")
            version = next((about[name] for name in names if about.get(name)), "")
            self.stats[path] = int(about["size"] or 0), str(version)
        return self.stats[path]

    def open(self, path: str) -> Any:
        # pyarrow asks for what it needs in large pieces: read ahead would be waste.
        return self.system.open(f"{self.root}/{path}", "rb", cache_type="none")

    def rows(self, shard: Shard, group: int, read: Callable[[], Any]) -> Any:
        key = json.dumps([self.root, *shard, group])
        where = f"{self.root}/{shard.path}"
        return self.cache.get(key, lambda: with_retries(where, read))


def with_retries(where: str, read: Callable[[], Any]) -> Any:
    """What `read` gives, after pauses where the network fails.

    Raises:
        UnavailableError: it failed every time. An example that was left out instead
            would make a run depend on the network.
    """
    for pause in (*RETRY_DELAYS, None):
        try:
            return read()
        except VitralError:
            raise
        except Exception as error:
            if pause is None:
                raise UnavailableError(
                    f"{where} could not be read {len(RETRY_DELAYS) + 1} times "
                    f"({one_line(error)}). Go on with --resume when the network is "
                    "back."
                ) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def read_streamed(name: str, root: Path, unlabelled: bool = False) -> Dataset:
    """List the examples of a set of the hub without downloading its pictures.

    Args:
        name: with its prefix, `hf-stream:`.
        root: data root; indices and row groups are kept in its folder shards.

    Raises:
        DataError: the set cannot be reached, or has no Parquet files that fit.
        MissingExtraError: `datasets` is not installed.
    """
    where, _, config = name.removeprefix(PREFIX).partition(":")
    import_pyarrow(name)
    try:
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs the package huggingface_hub: `pip install vitral[hf]`."
        ) from error
    system = HfFileSystem()
    # The hub converts most sets to Parquet, in a branch of its own.
    for folder in (f"datasets/{where}", f"datasets/{where}@~parquet"):
        try:
            paths = list_parquet_files(system, folder)
        except Exception as error:
            raise DataError(
                f"{name} cannot be reached ({one_line(error)}). Correct the name, or "
                "download its Parquet files and give their folder."
            ) from error
        if paths:
            return read_remote(name, system, folder, paths, config, root, unlabelled)
    raise DataError(
        f"{name} has no Parquet files. Give hf:OWNER/NAME, which lets datasets load it."
    )


def _build_index(files: RemoteFiles, path: str) -> ShardIndex:
    return index_parquet(files.open(path), path, remote=True)


def list_parquet_files(system: Any, folder: str) -> list[str]:
    """The Parquet files below a remote folder, relative to it."""
    files = (str(path) for path in system.find(folder))
    inside = [path.partition(f"{folder}/")[2] for path in files]
    return sorted((p for p in inside if p.endswith(".parquet")), key=natural_key)


def read_remote(
    name: str,
    system: Any,
    folder: str,
    paths: list[str],
    config: str,
    root: Path,
    unlabelled: bool,
) -> Dataset:
    """As `read_shards`, from a file system of fsspec.

    Args:
        config: folder with the files of a configuration; "" where there is one only.

    Raises:
        DataError: there are several configurations, or the files do not fit.
        UnavailableError: the network fails.
    """
    configs = sorted({path.partition("/")[0] for path in paths if "/" in path})
    configs = [each for each in configs if not infer_split(f"{each}/x")]
    chosen = [path for path in paths if not config or path.startswith(f"{config}/")]
    if not chosen or (not config and len(configs) > 1):
        raise DataError(
            f"{name} has the configurations {', '.join(configs)}: give one, as in "
            f"{name.removesuffix(':' + config)}:{(configs or ['NAME'])[0]}."
        )
    cache = root / "shards"
    files = RemoteFiles(
        system=system, root=folder, cache=RowGroupCache(folder=cache / "rows")
    )
    parts = []
    for path in chosen:
        shard = Shard(path, *with_retries(path, partial(files.stat, path)))
        build = partial(with_retries, path, partial(_build_index, files, path))
        index = load_or_build_index(f"{folder}/{path}", tuple(shard), cache, build)
        parts.append(IndexedShard(shard=shard, split=infer_split(path), index=index))
    found = ShardSet(
        root=Path(folder),
        paths=tuple(chosen),
        suffix=".parquet",
        name=name,
        display_name=name,
    )
    return build_dataset(found, parts, "", files, unlabelled)
