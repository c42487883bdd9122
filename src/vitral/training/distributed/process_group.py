"""Several processes that work on one thing, as torchrun starts them.

Without torchrun there is one process, and everything here costs nothing. The group is
made once (`joined`), of gloo on the CPU and of nccl on CUDA.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from vitral.errors import ConfigError, VitralError
from vitral.training.distributed.failures import report_rank_failure
from vitral.training.distributed.rendezvous import init_process_group

T = TypeVar("T")


def is_launched_by_torchrun() -> bool:
    """Return whether the environment names a rank and a rendezvous."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


def get_rank() -> int:
    """The number of this process, from 0; 0 where there is one."""
    return dist.get_rank() if _is_initialized() else 0


def get_world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if _is_initialized() else 1


def get_local_rank() -> int:
    """The number of this process on its machine: the number of its GPU."""
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
    if not is_launched_by_torchrun() or _is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        init_process_group(backend, timeout)
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
    """The value of every rank, in the order of ranks, on every rank.

    It travels as a pickle, between processes of one program only.
    """
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
    (found,) = outcome
    if isinstance(found, VitralError):
        raise found
    return found  # type: ignore[return-value]


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
