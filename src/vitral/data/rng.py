"""Random generators as pure functions of a key, such as (seed, epoch, example id).

So results do not depend on workers, threads or a resume. Hand-written: transforms.v2
draws from the global generator.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_for(*key: str | int) -> int:
    """Return a 64-bit seed for the key, the same on every platform."""
    text = ":".join(str(part) for part in key)
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def generator_for(*key: str | int) -> np.random.Generator:
    """Return a NumPy generator for the key, the same on every platform."""
    seed: Any = _PhiloxSeed(seed_for(*key))  # the stub names fewer kinds of seeds
    return np.random.Generator(np.random.Philox(seed))


class _PhiloxSeed(np.random.bit_generator.ISeedSequence):
    """Sets Philox's key: `Philox(key=...)` first draws unused entropy from the system,
    a third of the time of making a generator."""

    def __init__(self, key: int) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        return np.array([self.key, 0], np.uint64)


@contextmanager
def fork_torch_rng(seed: int) -> Iterator[None]:
    """Run with torch's CPU generator seeded, and restore its state after.

    `torch.manual_seed` would also reseed the accelerators.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
