"""Exported models: their metadata, and models that run them."""

from vitral.weights.exported import runtimes
from vitral.weights.exported.metadata import (
    KEY,
    XML,
    ExportedFile,
    Metadata,
    Precision,
    is_exported,
    read_exported,
)
from vitral.weights.exported.model import ExportedModel
from vitral.weights.exported.onnx import IMAGE, LOGITS, PIXELS
from vitral.weights.exported.openvino import inference_precision
from vitral.weights.exported.runtimes import (
    import_nncf,
    import_onnx,
    import_openvino,
    openvino_core,
)

__all__ = [
    "IMAGE",
    "KEY",
    "LOGITS",
    "PIXELS",
    "XML",
    "ExportedFile",
    "ExportedModel",
    "Metadata",
    "Precision",
    "import_nncf",
    "import_onnx",
    "import_openvino",
    "inference_precision",
    "is_exported",
    "openvino_core",
    "read_exported",
    "runtimes",
]
