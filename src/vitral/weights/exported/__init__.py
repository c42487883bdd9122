"""Exported models: what a file says of itself, and models that run it."""

from vitral.weights.exported import runtimes
from vitral.weights.exported.metadata import (
    KEY,
    XML,
    Artefact,
    Metadata,
    Precision,
    is_artefact,
    read_artefact,
)
from vitral.weights.exported.model import ExportedModel
from vitral.weights.exported.onnx import IMAGE, LOGITS, PIXELS
from vitral.weights.exported.openvino import hint_of
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
    "Artefact",
    "ExportedModel",
    "Metadata",
    "Precision",
    "hint_of",
    "import_nncf",
    "import_onnx",
    "import_openvino",
    "is_artefact",
    "openvino_core",
    "read_artefact",
    "runtimes",
]
