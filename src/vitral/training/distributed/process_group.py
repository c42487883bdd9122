"""Process group of the ranks that torchrun starts; alone, all here costs nothing.

The rendezvous is hand-written: torchrun reuses one store, so keys of dead ranks remain
after a restart (pytorch#135712, seen with torch 2.14).
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from vitral.errors import ConfigError, VitralError
from vitral.training.distributed.failures import report_rank_failure

T = TypeVar("T")

POLL_SECONDS = 0.01


def get_rank() -> int:
    """Return the number of this process, from 0; 0 without a process group."""
    return dist.get_rank() if _is_initialized() else 0


def get_world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if _is_initialized() else 1


def get_local_rank() -> int:
    """Return the number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if _is_initialized() else 0


TIMEOUT = 1800.0
"""Seconds that a rank waits for another: longer than a large checkpoint or the audit
of the data takes on rank 0. One that died is noticed at once."""


@contextmanager
def process_group(device: torch.device, timeout: float = TIMEOUT) -> Iterator[None]:
    """Meet the other processes, and leave them at the end; alone, do nothing.

    Args:
        timeout: seconds after which a rank that does not answer counts as gone.

    Raises:
        ConfigError: they cannot be reached.
        PeerError: another rank stopped, died or does not answer.
    """
    started = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    if not started or _is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        _init_process_group(backend, timeout)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The {os.environ['WORLD_SIZE']} processes of torchrun could not meet with "
            f"{backend}: {error}. Check MASTER_ADDR and MASTER_PORT, or start without "
            "torchrun."
        ) from error
    try:
        with report_rank_failure(timeout):
            yield
    finally:
        if _is_initialized():
            dist.destroy_process_group()


def all_gather(value: T) -> list[T]:
    """Return the value of every rank, in their order; it travels as a pickle."""
    if not _is_initialized():
        return [value]
    values: list[T | None] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return list(values)  # type: ignore[arg-type]


def broadcast_from_rank_zero(make: Callable[[], T]) -> T:
    """Run `make` on rank 0; return its result, or raise its error, on every rank."""
    if not _is_initialized():
        return make()
    outcome: list[T | VitralError | None] = [None]
    if get_rank() == 0:
        try:
            outcome = [make()]
        except VitralError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome)
    (result,) = outcome
    if isinstance(result, VitralError):
        raise result
    return result  # type: ignore[return-value]


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _init_process_group(backend: str, timeout: float) -> None:
    """Create the group of all ranks, under a new prefix of torchrun's store."""
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
    """Return the same new name on every rank, whatever a dead start left in `store`.

    Rank 0 answers each hello with its word and the name, which the rank confirms.
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
    return store.get(key).decode() if store.check([key]) else ""


def _wait(deadline: float, who: str) -> None:
    if time.monotonic() > deadline:
        raise ConfigError(
            f"{who} did not come to the meeting of torchrun's processes: see what it "
            "printed, and whether every node was started."
        )
    time.sleep(POLL_SECONDS)
