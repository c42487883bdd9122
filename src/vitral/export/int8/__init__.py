"""Int8: quantize, bound the error, choose layers, calibrate."""

from vitral.export.int8.bounded import agreement, is_right
from vitral.export.int8.calibration_data import Labelled
from vitral.export.int8.layers import folded
from vitral.export.int8.reduce import Reduced, reduced

__all__ = ["Labelled", "Reduced", "agreement", "folded", "is_right", "reduced"]
