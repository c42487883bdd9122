"""Stream Parquet files of the Hugging Face hub by HTTP ranges.

`hf-stream:OWNER/NAME[:CONFIG]` has the examples, order and splits of the same files on
a disk. Each machine fetches a row group once per epoch into a disk cache of bounded
size. Hand-written around HfFileSystem: one retry policy and one cache for all reads.
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
from vitral.data.shards.parquet import index_parquet, one_line
from vitral.data.shards.paths import ShardSet, infer_split
from vitral.data.shards.readers import Shard
from vitral.data.sources import import_pyarrow
from vitral.errors import DataError, MissingExtraError, VitralError

PREFIX = "hf-stream:"
CACHE_BYTES = 4 << 30
"""Approximate bound in bytes on the row groups on disk."""
RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each retry of a failed read."""
_LOCKS = 64


@dataclass(frozen=True, kw_only=True)
class RowGroupCache:
    """Disk cache of row groups, shared by all processes of a machine."""

    folder: Path
    limit: int = CACHE_BYTES

    def get(self, key: str, fetch: Callable[[], Any]) -> Any:
        """Return the memory-mapped column of a key, fetched if it is not cached."""
        name = hashlib.sha256(key.encode()).hexdigest()
        file = self.folder / f"{name}.arrow"
        self.folder.mkdir(parents=True, exist_ok=True)
        column = self._open_mapped(file)
        if column is None:
            with self._lock(int(name[:8], 16) % _LOCKS):
                column = self._open_mapped(file)  # another process was quicker
                if column is None:
                    column = fetch()
                    self._trim()
                    write_atomic(file, lambda path: self._write(path, column))
        return column

    def _open_mapped(self, file: Path) -> Any:
        """Map a cached file; return None if it is missing or damaged."""
        arrow = import_pyarrow("A shard")
        try:
            with arrow.memory_map(str(file)) as mapped:
                table = arrow.ipc.open_file(mapped).read_all()
            os.utime(file)  # mark as used last
        except (OSError, arrow.ArrowException):
            return None
        return table.column(0)

    def _write(self, path: Path, column: Any) -> None:
        arrow = import_pyarrow("A shard")
        table = arrow.table({"picture": column})
        with arrow.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)

    def _trim(self) -> None:
        """Remove the files used least recently; a mapped file lives until unmapped."""
        cached = []
        for file in self.folder.glob("[!.]*.arrow"):
            try:
                status = file.stat()
            except OSError:
                continue  # another process trims
            cached.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in cached)
        for _, size, file in sorted(cached):
            if total <= self.limit:
                break
            file.unlink(missing_ok=True)
            total -= size

    @contextmanager
    def _lock(self, slot: int) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # without flock two processes may both fetch
            yield
            return
        # The kernel releases the lock when the process exits.
        descriptor = os.open(self.folder / f".lock-{slot}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class RemoteFiles:
    """Files below a folder of an fsspec file system."""

    system: Any
    root: str
    cache: RowGroupCache
    stats: dict[str, tuple[int, int | str]] = field(default_factory=dict, compare=False)

    def stat(self, path: str) -> tuple[int, int | str]:
        if path not in self.stats:
            info = self.system.info(f"{self.root}/{path}")
            names = ("blob_id", "etag", "ETag", "mtime", "created")
            version = next((info[name] for name in names if info.get(name)), "")
            self.stats[path] = int(info["size"] or 0), str(version)
        return self.stats[path]

    def open(self, path: str) -> Any:
        # pyarrow requests large ranges: read-ahead would be waste.
        return self.system.open(f"{self.root}/{path}", "rb", cache_type="none")

    def rows(self, shard: Shard, group: int, read: Callable[[], Any]) -> Any:
        key = json.dumps([self.root, shard.path, shard.size, shard.version, group])
        where = f"{self.root}/{shard.path}"
        return self.cache.get(key, lambda: with_retries(where, read))


def with_retries(where: str, read: Callable[[], Any]) -> Any:
    """Return `read()`, retried after `RETRY_DELAYS` where the network fails.

    Raises:
        UnavailableError: every attempt failed. To leave an example out instead would
            make a run depend on the network.
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
        root: data root; indices and row groups are cached in its folder shards.
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
    # The hub converts most sets to Parquet, in a separate branch.
    for folder in (f"datasets/{where}", f"datasets/{where}@~parquet"):
        try:
            paths = list_parquet_files(system, folder)
        except Exception as error:
            raise DataError(
                f"{name} cannot be reached ({one_line(error)}). Correct the name, or "
                "download its Parquet files and give their folder."
            ) from error
        if paths:
            break
    else:
        raise DataError(
            f"{name} has no Parquet files. Give hf:OWNER/NAME, which lets datasets "
            "load it."
        )
    return read_remote(
        name, system, folder, paths, config=config, root=root, unlabelled=unlabelled
    )


def list_parquet_files(system: Any, folder: str) -> list[str]:
    """List the Parquet files below a remote folder, relative to it."""
    files = (str(path) for path in system.find(folder))
    inside = [path.partition(f"{folder}/")[2] for path in files]
    return sorted((p for p in inside if p.endswith(".parquet")), key=natural_key)


def read_remote(
    name: str,
    system: Any,
    folder: str,
    paths: list[str],
    *,
    config: str,
    root: Path,
    unlabelled: bool,
) -> Dataset:
    """List the examples as `read_shards` does, from an fsspec file system.

    Args:
        config: folder of the configuration; "" if there is one only.
    """
    configs = sorted({path.partition("/")[0] for path in paths if "/" in path})
    configs = [folder for folder in configs if not infer_split(f"{folder}/x")]
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
        stat = with_retries(path, partial(files.stat, path))

        def build(path: str = path) -> ShardIndex:
            source = files.open(path)
            return index_parquet(source, path, remote=True)

        index = load_or_build_index(
            f"{folder}/{path}", (path, *stat), cache, partial(with_retries, path, build)
        )
        shard = Shard(path, *stat)
        parts.append(IndexedShard(shard=shard, split=infer_split(path), index=index))
    shard_set = ShardSet(
        root=Path(folder),
        paths=tuple(chosen),
        suffix=".parquet",
        name=name,
        display_name=name,
    )
    return build_dataset(
        shard_set, parts, group_by="", files=files, unlabelled=unlabelled
    )
