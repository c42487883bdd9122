"""Runtime of a job: device, workers and ranks, and the facts of environment.json."""

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch

from vitral.errors import ConfigError, MissingExtraError
from vitral.training.distributed import (
    TIMEOUT,
    broadcast_from_rank_zero,
    get_local_rank,
    get_world_size,
)
from vitral.version import __version__
from vitral.weights import ExportedModel

T = TypeVar("T")

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, workers and ranks of a job; none of them changes what it computes."""

    device: str = "auto"
    """`cpu`, `cuda`, `mps`, or `auto` for the best that is available."""
    workers: int = 0
    """Processes that decode images; 0 decodes in this one. Batches are the same for
    any number."""
    shard: Literal["none", "fsdp"] = "none"
    """`fsdp` divides weights, gradients and optimizer among the ranks."""
    checkpoint_activations: bool = False
    """True keeps only the input of each block, and computes the rest again for the
    gradient; the numbers stay the same."""
    rank_timeout: float = TIMEOUT
    """Seconds after which a rank that does not answer counts as lost."""


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Return flat facts for repeating the run, without the name of user or host."""
    facts: dict[str, str | int] = {
        "vitral": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    facts |= {name: importlib.metadata.version(name) for name in PACKAGES}
    if get_world_size() > 1:
        facts["ranks"] = get_world_size()
    return facts


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        MissingExtraError: the machine does not have the device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    devices = [device for device, is_available in available.items() if is_available]
    if name == "auto":
        return torch.device(devices[0])
    if name.split(":")[0] not in devices:
        raise MissingExtraError(
            f"Device `{name}` is not available on this machine: use one of "
            f"{', '.join(devices)}, or `auto`."
        )
    return torch.device(name)


def pick_model_device(model: torch.nn.Module, name: str) -> torch.device:
    """Return the device of that name for a model; an exported one has the CPU alone.

    Raises:
        ConfigError: an exported model is asked to compute elsewhere.
        MissingExtraError: the machine does not have the device.
    """
    if not isinstance(model, ExportedModel):
        return pick_device(name)
    if name not in ("auto", "cpu"):
        raise ConfigError(
            f"`device={name}` does nothing: an exported model computes on the CPU. "
            "Leave it out, or give the run that it was exported from."
        )
    return torch.device("cpu")


def local_device(device: torch.device) -> torch.device:
    """Return this rank's own GPU where `device` names none of several."""
    if device.type == "cuda" and device.index is None and get_world_size() > 1:
        return torch.device("cuda", get_local_rank())
    return device


def rank_zero_first(work: Callable[[], T]) -> T:
    """Run `work` on every rank, on rank 0 before the others: they find its files."""

    def run_once() -> None:
        work()

    if get_world_size() > 1:
        broadcast_from_rank_zero(run_once)
    return work()


def command_line() -> str:
    """Return the command that started this process, as it would be typed."""
    program, *arguments = sys.argv
    name = Path(program).name
    command = ["python", "-m", "vitral"] if name == "__main__.py" else [name]
    return shlex.join([*command, *arguments])


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
