"""Export a model to ONNX or OpenVINO, and compare the file with it before renaming."""

from vitral.export.export import ExportOptions, onnx, openvino
from vitral.export.gate import GateReport

__all__ = ["ExportOptions", "GateReport", "onnx", "openvino"]
