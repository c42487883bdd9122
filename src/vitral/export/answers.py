"""An openvino.Model on this machine: compiled in a precision, asked for logits."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from vitral.weights.runtimes import openvino

Precision = Literal["fp32", "bf16", "int8"]
Images = Float[np.ndarray, "batch channels height width"]
Logits = Float[np.ndarray, "examples classes"]
Answering = Callable[[Images], Logits]


def hint_of(precision: Precision) -> str:
    """What the runtime computes in where nothing is quantised.

    The rest of an int8 model is in bfloat16 where the CPU has it: as near to float32 as
    the int8 layers around it, and 1.4 times as quick (LOG.md, 2026-11-22).
    """
    if precision == "fp32":
        return "f32"
    able = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in able else "f32"


def answering(model: Any, precision: Precision, *, threads: int = 0) -> Answering:
    """`model` compiled for the CPU, as a function of a batch.

    Args:
        threads: 0 leaves their number to the runtime.
    """
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint_of(precision),
        # Several streams would split the cores between batches; here one batch counts.
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino().Core().compile_model(model, "CPU", settings)
    return lambda images: np.array(compiled(images)[0], dtype=np.float32)


def logits_over(answer: Answering, batches: Iterable[Images]) -> Logits:
    """The logits of all batches, in their order."""
    return np.concatenate([answer(batch) for batch in batches])
