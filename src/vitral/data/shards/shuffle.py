"""Order of a sharded data set in one epoch: near-sequential on disk, well mixed.

Consecutive examples form chunks, chunks form windows. Both are shuffled as functions
of (seed, epoch), so every process knows the example at any position.
"""

from dataclasses import dataclass

import numpy as np

from vitral.data.example import Example
from vitral.data.rng import generator_for

CHUNK = 64
"""Consecutive examples per chunk, where examples are read one by one."""
CHUNKS = 64
"""Largest number of chunks that are mixed with each other."""


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """Order with chunks shuffled, then examples within windows of `chunks` chunks.

    With the chunks c(1) ... c(n) of a list of examples and p = permutation(n), the
    epoch is permuted(c(p1) + ... + c(pW)), permuted(c(pW+1) + ...), and so on for
    W = `chunks`. Both permutations are drawn from Philox, keyed by the SHA-256 of
    "shards:SEED:EPOCH".
    """

    by_row_group: bool
    """True: a chunk is a row group, which is read at once. False: up to CHUNK
    consecutive examples of one shard."""
    chunks: int = CHUNKS

    def __call__(
        self, examples: tuple[Example, ...], seed: int, epoch: int
    ) -> list[int]:
        """Return indices into `examples`, which are in the order of the files."""
        generator = generator_for("shards", seed, epoch)
        starts = self._starts(examples)
        ends = np.append(starts[1:], len(examples))
        shuffled = generator.permutation(len(starts))
        order = []
        for first in range(0, len(shuffled), self.chunks):
            window = shuffled[first : first + self.chunks]
            indices = np.concatenate(
                [np.arange(starts[chunk], ends[chunk]) for chunk in window]
            )
            order.append(generator.permutation(indices))
        return [int(index) for index in np.concatenate(order)]

    def _starts(self, examples: tuple[Example, ...]) -> np.ndarray:
        """Return the index in `examples` of each chunk's first example."""
        depth = 2 if self.by_row_group else 1
        locations = np.array(
            [example.location[:depth] for example in examples], np.int64
        )
        new = np.any(locations[1:] != locations[:-1], axis=1)
        starts = np.concatenate([[0], np.flatnonzero(new) + 1])
        if self.by_row_group:
            return starts
        ends = np.append(starts[1:], len(examples))
        return np.concatenate(
            [np.arange(*run, CHUNK) for run in zip(starts, ends, strict=True)]
        )
