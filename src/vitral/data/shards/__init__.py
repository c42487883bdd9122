"""Archives of examples: tar, WebDataset, Parquet, local or remote."""

from vitral.data.shards import remote
from vitral.data.shards.dataset import read_shards
from vitral.data.shards.paths import find

__all__ = ["find", "read_shards", "remote"]
