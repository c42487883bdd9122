"""Candidates of a sweep: runtime, precision, token merging, image size and batch.

Building one never changes the run's own model.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitral.export.int8 import fold_constants, quantize
from vitral.export.run_openvino import compile_model
from vitral.export.to_onnx import to_onnx
from vitral.export.to_openvino import to_openvino
from vitral.models import MergeSchedule, VisionModel, set_merge
from vitral.weights.exported import runtimes

Runtime = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
WAYS: dict[str, tuple[Runtime, Precision | None]] = {
    "torch": ("torch", None),
    "onnx": ("onnx", "fp32"),
    "openvino": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
    "openvino-int8": ("openvino", "int8"),
}
"""Runtimes with their precisions; torch computes in the run's."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a model."""

    runtime: Runtime = "torch"
    precision: Precision = "fp32"
    merge: int = 0
    """Tokens merged in each block; 0 for none."""
    merge_schedule: MergeSchedule = "constant"
    """Distribution of the merged tokens over the blocks."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    batch: int = 1
    """Batch size."""

    @property
    def function_key(self) -> tuple[int, str, tuple[int, int]]:
        """Return the key of the exact function, before a runtime rounds it."""
        schedule = self.merge_schedule if self.merge else ""
        return (self.merge, schedule, self.image_size)

    @property
    def graph_key(self) -> tuple[str, str, int, str, tuple[int, int]]:
        """Return the key of the predictions: all but the batch."""
        return (self.runtime, self.precision, *self.function_key)

    def __str__(self) -> str:
        height, width = self.image_size
        titles = {"torch": "torch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
        runtime = titles[self.runtime]
        merging = f", merge {self.merge} {self.merge_schedule}" if self.merge else ""
        return (
            f"{runtime} {self.precision}{merging}, {height} x {width}, "
            f"batch {self.batch}"
        )


class CompiledGraph(nn.Module):
    """A compiled graph as a module on tensors."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        super().__init__()
        self._run = run

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self._run(image.numpy()))


def copy_with_merging(model: VisionModel, candidate: Candidate) -> VisionModel:
    """Return a copy of the model with the candidate's token merging."""
    merged = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    set_merge(merged, candidate.merge, candidate.merge_schedule)
    return merged


class CandidateBuilder:
    """Builds candidates of one model, and caches the last traced graph.

    Tracing takes most of the time, and all runtimes and precisions share a graph.
    """

    def __init__(
        self,
        model: VisionModel,
        calibration: Callable[[tuple[int, int]], Sequence[Tensor]],
    ) -> None:
        """Keep the model; `calibration` returns images of a size for int8's ranges."""
        self._model, self._calibration = model, calibration
        self._traced: tuple[Any, Any] = (None, None)

    def make(self, candidate: Candidate) -> nn.Module:
        """Build a module that computes logits, on as many threads as torch.

        Raises:
            MissingExtraError: the runtime is not installed.
            GateError: the model cannot be written as a graph.
            ConfigError: the model cannot merge tokens.
        """
        if candidate.runtime == "torch":
            return copy_with_merging(self._model, candidate)
        # Fail before a trace of a minute, not after it.
        {"onnx": runtimes.import_onnxruntime, "openvino": runtimes.import_openvino}[
            candidate.runtime
        ]()
        proto = self._proto(candidate)
        if candidate.runtime == "onnx":
            return _onnx(proto)
        return _openvino(proto, candidate, self._calibration)

    def _proto(self, candidate: Candidate) -> Any:
        if self._traced[0] != candidate.function_key:
            self._traced = (None, None)
            size = candidate.image_size
            proto = to_onnx(copy_with_merging(self._model, candidate), image_size=size)
            self._traced = (candidate.function_key, proto)
        return self._traced[1]


def prepare(
    candidate: Candidate,
    model: VisionModel,
    calibration: Callable[[tuple[int, int]], Sequence[Tensor]],
) -> nn.Module:
    """Build a single candidate; see `CandidateBuilder`."""
    return CandidateBuilder(model, calibration).make(candidate)


def _onnx(proto: Any) -> CompiledGraph:
    module = runtimes.import_onnxruntime()
    options = module.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would keep spinning while the baseline is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = module.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (name,) = [given.name for given in session.get_inputs()]
    return CompiledGraph(lambda image: session.run(None, {name: image})[0])


def _openvino(
    proto: Any,
    candidate: Candidate,
    calibration: Callable[[tuple[int, int]], Sequence[Tensor]],
) -> CompiledGraph:
    graph = to_openvino(proto)
    if candidate.precision == "int8":
        graph = _quantize(graph, calibration(candidate.image_size))
    # As for an exported model: the float rest of an int8 model runs in bfloat16.
    predict = compile_model(graph, candidate.precision, threads=torch.get_num_threads())
    return CompiledGraph(predict)


def _quantize(graph: Any, batches: Sequence[Tensor]) -> Any:
    return quantize(fold_constants(graph), [batch.numpy() for batch in batches])
