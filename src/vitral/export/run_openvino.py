"""Compile an openvino.Model for this machine and compute its logits."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from vitral.weights.exported import Precision, inference_precision, openvino_core

Images = Float[np.ndarray, "_ ... channels height width"]
"""Pre-processed images; the last batch of a split may be smaller."""
Logits = Float[np.ndarray, "examples classes"]
PredictFunction = Callable[[Images], Logits]


def compile_model(
    model: Any, precision: Precision, *, threads: int = 0
) -> PredictFunction:
    """Compile `model` for the CPU; 0 `threads` let the runtime choose their number."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": inference_precision(precision),
        # Several streams would split the cores between batches.
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino_core().compile_model(model, "CPU", settings)
    return lambda images: np.array(compiled(images)[0], dtype=np.float32)


def collect_logits(predict: PredictFunction, batches: Iterable[Images]) -> Logits:
    """Return the logits of all batches, in their order."""
    return np.concatenate([predict(batch) for batch in batches])
