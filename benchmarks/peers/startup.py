"""Time imports and the command's help, each in a fresh process."""

import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.peers.interleave import quartiles
from benchmarks.peers.machine import subprocess_env

IMPORTS = ("vitral", "torch", "timm", "transformers", "torchvision", "vit_pytorch")
HELP = "vitral --help"
_TIMING_SCRIPT = (
    "import time; started = time.perf_counter(); import {name}; "
    "print(time.perf_counter() - started)"
)


def measure(rounds: int, imports: tuple[str, ...] = IMPORTS) -> dict[str, Any]:
    """Time each import, without the start of Python, and the full help."""
    taken: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    for number in range(rounds + 1):  # the first brings the files into memory
        for name in imports:
            code = _TIMING_SCRIPT.format(name=name)
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                env=subprocess_env(),
            )
            if done.returncode:
                absent[name.replace("_", "-")] = "cannot be imported"
            elif number:
                seconds = float(done.stdout.strip().splitlines()[-1])
                taken.setdefault(f"import {name}", []).append(seconds)
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "vitral", "--help"],
            capture_output=True,
            check=True,
            env=subprocess_env(),
        )
        if number:
            taken.setdefault(HELP, []).append(time.perf_counter() - started)
    rows = [
        {
            "name": name,
            "seconds": statistics.median(seconds),
            "quartiles": quartiles(seconds),
        }
        for name, seconds in taken.items()
    ]
    return {"rounds": rounds, "absent": absent, "rows": rows}
