"""Rendezvous that survives a restart by torchrun.

Hand-written: torchrun reuses one store, so keys of dead ranks remain after a restart
(pytorch#135712, seen with torch 2.14). Rank 0 publishes a fresh prefix per start, and
every rank initializes under it.
"""

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from vitral.errors import ConfigError

POLL_SECONDS = 0.01


def init_process_group(backend: str, timeout: float) -> None:
    """Create the process group of the environment's ranks.

    Raises:
        RuntimeError, ValueError: torch cannot reach the others.
        ConfigError: not all of them came in time.
    """
    patience = timedelta(seconds=timeout)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend, timeout=patience)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=patience)
    name = agree_on_restart_id(store, rank, world, timeout)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(name, store),
        rank=rank,
        world_size=world,
        timeout=patience,
    )


def agree_on_restart_id(
    store: dist.Store, rank: int, world: int, timeout: float
) -> str:
    """The same new name on every rank, whatever an earlier start left in `store`.

    Raises:
        ConfigError: not all ranks came in time.
    """
    deadline = time.monotonic() + timeout
    if rank > 0:
        word = uuid.uuid4().hex
        store.set(f"vitral/hello/{rank}", word)
        while True:
            given, _, name = _read(store, f"vitral/welcome/{rank}").partition(" ")
            if given == word:
                store.set(f"vitral/here/{name}/{rank}", "1")
                return name
            _wait(deadline, "Rank 0")
    name = uuid.uuid4().hex
    answered: dict[int, str] = {}
    missing = set(range(1, world))
    while missing:
        for other in sorted(missing):
            word = _read(store, f"vitral/hello/{other}")
            if word and answered.get(other) != word:
                store.set(f"vitral/welcome/{other}", f"{word} {name}")
                answered[other] = word
            if _read(store, f"vitral/here/{name}/{other}"):
                missing.discard(other)
        if missing:
            _wait(deadline, f"Rank {min(missing)}")
    return name


def _read(store: dist.Store, key: str) -> str:
    """The text of a key; empty without one."""
    return store.get(key).decode() if store.check([key]) else ""


def _wait(deadline: float, who: str) -> None:
    if time.monotonic() > deadline:
        raise ConfigError(
            f"{who} did not come to the meeting of torchrun's processes: see what it "
            "printed, and whether every node was started."
        )
    time.sleep(POLL_SECONDS)
