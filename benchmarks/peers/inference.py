"""Time the forward pass of a model, its peers and its compiled forms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.exact import exact_sides
from benchmarks.peers.interleave import run_interleaved
from benchmarks.peers.machine import peak_flops
from benchmarks.peers.peers import Side, Sides, require_agreement
from benchmarks.peers.rows import timing_row


def measure(
    sides: Sides, batch: int, rounds: int, *, exact: bool = True
) -> dict[str, Any]:
    """Time a float32 forward pass of `batch` images, all sides interleaved.

    Args:
        exact: also measure compiled forms of our model; compiling takes half a minute.

    Raises:
        GateError: a compiled model gives other logits.
    """
    images = torch.randn(batch, sides.config.in_chans, *sides.config.image_hw)
    extra: tuple[Side, ...] = ()
    absent: dict[str, str] = {}
    if exact:
        extra, absent = exact_sides(sides.ours, images)
    everyone = (*sides.available, *extra)
    require_agreement(everyone, images)
    peak = peak_flops()
    work = {side.name: _forward(side, images) for side in everyone}
    taken = run_interleaved(work, rounds, warmup=1)
    peak = max(peak, peak_flops())
    flops = 2.0 * sides.config.macs() * batch
    return {
        "batch": batch,
        "rounds": rounds,
        "peak_flops": peak,
        "flops": flops,
        "absent": absent,
        "rows": [
            timing_row(
                side.name, side.kind, side.against, taken, flops=flops, peak=peak
            )
            for side in everyone
        ],
    }


def _forward(side: Side, images: Tensor) -> Callable[[], object]:
    model = side.model.eval()

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run
