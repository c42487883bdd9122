"""Where a run happened: versions, machine and threads, for environment.json."""

import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path

import torch

from vitral.errors import MissingExtraError
from vitral.version import __version__

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "scikit-learn")


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Flat facts that a reader needs to repeat the run; no user or host name."""
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
    return facts


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        MissingExtraError: the device that was asked for is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    if not there.get(name.split(":")[0], False):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise MissingExtraError(
            f"Device `{name}` is not available on this machine: use one of {found}, "
            "or `auto`."
        )
    return torch.device(name)


def command_line() -> str:
    """The command that started this process, as one would type it."""
    program, *arguments = sys.argv
    name = Path(program).name
    words = ["python", "-m", "vitral"] if name == "__main__.py" else [name]
    return shlex.join([*words, *arguments])


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
