"""Post-training quantization to int8 within a bound on accuracy."""

from vitral.export.int8.calibration_data import LabeledBatches
from vitral.export.int8.decisions import Decisions
from vitral.export.int8.layers import fold_constants
from vitral.export.int8.quantize import quantize
from vitral.export.int8.reduce import QuantizedGraph, quantize_graph

__all__ = [
    "Decisions",
    "LabeledBatches",
    "QuantizedGraph",
    "fold_constants",
    "quantize",
    "quantize_graph",
]
