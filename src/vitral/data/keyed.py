"""Randomness that is a pure function of a key, such as (seed, epoch, example id).

No worker, thread or resume changes it, and nothing here touches a global generator.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def keyed_integer(*key: str | int) -> int:
    """A 64-bit number fixed by the key, the same on every platform."""
    text = ":".join(str(part) for part in key)
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def keyed_generator(*key: str | int) -> np.random.Generator:
    """A NumPy generator fixed by the key, the same on every platform."""
    return np.random.Generator(np.random.Philox(key=keyed_integer(*key)))


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Run with torch's CPU generator seeded, and restore its state after.

    `torch.manual_seed` would also reseed the accelerators.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
