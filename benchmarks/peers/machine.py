"""Description of the machine, and its peak float32 throughput."""

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "vitral",
    "torch",
    "timm",
    "transformers",
    "torchvision",
    "vit-pytorch",
    "openvino",
    "onnxruntime",
)


def describe() -> dict[str, Any]:
    """Return processor, memory, threads, load and versions as plain data."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "matrix_unit": "AMX" if "amx_tile" in _cpuinfo("flags").split() else "",
        "memory_gb": memory_gb(),
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "when": time.strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    if package == "vitral":
        from vitral.version import __version__

        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def subprocess_env() -> dict[str, str]:
    """Return the environment for a subprocess to import the same packages."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def processor() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def memory_gb() -> float:
    """Return the memory of the machine in units of 2^30 bytes."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0.0
    return round(pages * size / 2**30, 1)


def peak_flops(side: int = 2048, times: int = 8) -> float:
    """Return the operations per second of the fastest of several float32 products.

    Uses torch's threads; an upper bound for a forward pass.
    """
    left, right = torch.rand(side, side), torch.rand(side, side)
    out = left @ right
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; empty without one."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
