"""Measure the peak memory of training steps, each side in its own process.

    python -m benchmarks.peers.memory timm '{"name": "vit_s16", ...}'

A process never returns all of its memory, so two sides in one would share a peak.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.machine import subprocess_env
from vitral.errors import VitralError

STEPS = 2
"""The first step creates the optimizer's state, the second runs with it."""
OURS = "vitral"
CHECKPOINTED = ", checkpointed"
LIBRARIES = (
    OURS,
    OURS + CHECKPOINTED,
    "timm",
    "timm" + CHECKPOINTED,
    "transformers",
    "torchvision",
    "vit-pytorch",
)
"""`, checkpointed`: with activation checkpointing."""


def measure(
    name: str,
    batch: int,
    *,
    image_size: tuple[int, int],
    classes: int,
    threads: int,
    libraries: tuple[str, ...] = LIBRARIES,
) -> dict[str, Any]:
    """Return the peak megabytes (2^20 bytes) of training steps of `batch` images."""
    task = {
        "name": name,
        "batch": batch,
        "image_size": list(image_size),
        "classes": classes,
        "threads": threads,
    }
    rows, absent = [], {}
    for library in libraries:
        result = _run_in_process(library, task)
        if "absent" in result:
            absent[library] = result["absent"]
        else:
            rows.append({"name": library, **result})
    return {"batch": batch, "absent": absent, "rows": rows}


def _run_in_process(library: str, settings: dict[str, Any]) -> dict[str, Any]:
    argv = [
        sys.executable,
        "-m",
        "benchmarks.peers.memory",
        library,
        json.dumps(settings),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env=subprocess_env())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise VitralError(
            f"The memory of {library} could not be measured: its process ended with "
            f"{done.returncode} ({last}). Is there enough memory for "
            f"{settings['batch']} "
            "images? A smaller `--memory-batch` takes less."
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure_side(library: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Build one side, train a few steps, and read the memory of the process."""
    import torch

    from benchmarks.peers.peer_models import MODEL_BUILDERS, PeerUnavailable
    from benchmarks.peers.peers import Side, Sides, plain_config
    from benchmarks.peers.training import make_batch, make_step

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    height, width = settings["image_size"]
    config = plain_config(settings["name"], (height, width), settings["classes"])
    plain = library.removesuffix(CHECKPOINTED)
    before: float = _process_memory_mb("VmRSS")
    try:
        if plain == OURS:
            import vitral.models
            from vitral.training.activation_checkpoint import (
                checkpoint_activations,
                find_blocks,
                return_freed_memory,
            )

            model: Any = vitral.models.build_model(config)
            if plain != library:
                return_freed_memory()
                checkpoint_activations(find_blocks(model))
        else:
            model = MODEL_BUILDERS[plain](config)
            if plain != library:
                model.set_grad_checkpointing()
    except PeerUnavailable as reason:
        return {"absent": str(reason)}
    side = Side(name=library, library=plain, model=model)
    sides = Sides(config=config, available=(side,), absent={})
    step = make_step(side, make_batch(sides, settings["batch"]))
    for _ in range(STEPS):
        step()
    peak_mb = _process_memory_mb("VmHWM")
    return {"peak_mb": peak_mb, "above_imports_mb": peak_mb - before}


def _process_memory_mb(field: str) -> float:
    """Return the megabytes of this process, now (VmRSS) or at its peak (VmHWM).

    getrusage would include the peak of the parent.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    (line,) = (
        line for line in status.read_text().splitlines() if line.startswith(field)
    )
    return int(line.split()[1]) / 2**10


if __name__ == "__main__":
    print(json.dumps(_measure_side(sys.argv[1], json.loads(sys.argv[2]))))
