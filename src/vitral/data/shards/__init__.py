"""Read data sets from shards: tar (WebDataset), Parquet and Arrow, local or remote."""

from vitral.data.shards import remote
from vitral.data.shards.dataset import read_shards
from vitral.data.shards.paths import find_shards

__all__ = ["find_shards", "read_shards", "remote"]
