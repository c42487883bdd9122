"""Shards that claim more than they hold: refused before rows are made of them."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vitral.data as data
from shard_files import pack_rows
from vitral.data.shards.parquet import index_parquet
from vitral.errors import DataError


def _write_repeated(file: Path, rows: int, *, labelled: bool) -> None:
    """Write rows that all repeat one picture, which takes no room."""
    file.parent.mkdir()
    zeros = pa.array(np.zeros(rows, np.int32))
    columns = {"image": pa.DictionaryArray.from_arrays(zeros, pa.array([b"x" * 50]))}
    if labelled:
        columns["label"] = pa.DictionaryArray.from_arrays(zeros, pa.array(["a"]))
    pq.write_table(pa.table(columns), file, compression="zstd")


@pytest.mark.parametrize("labelled", [True, False])
def test_millions_of_rows_in_kilobytes(labelled: bool, tmp_path: Path):
    file = tmp_path / "set" / "train.parquet"
    _write_repeated(file, 3_000_000, labelled=labelled)
    assert file.stat().st_size < 100_000
    started = time.monotonic()
    with pytest.raises(DataError, match=r"it claims 3,000,000 rows in [\d,]+ bytes"):
        data.open(str(file.parent))
    assert time.monotonic() - started < 5


def test_rows_with_pictures_are_indexed(tmp_path: Path):
    file = pack_rows(tmp_path / "set" / "train.parquet", range(9))
    assert index_parquet(str(file), "train.parquet").fault == ""
