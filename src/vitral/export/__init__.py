"""Floor 6: a model as a file for another runtime, measured before it is kept."""

from vitral.export.export import onnx, openvino
from vitral.export.gate import GateReport

__all__ = ["GateReport", "onnx", "openvino"]
