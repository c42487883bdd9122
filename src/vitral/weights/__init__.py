"""Floor 2: weights files to models and back. One foreign layout is one module."""

from vitral.weights.explaining import explain
from vitral.weights.layout import Layout, layouts
from vitral.weights.ledger import Ledger, Line
from vitral.weights.loading import Loaded, build, load, read
from vitral.weights.native import keep, save
from vitral.weights.source import Source
from vitral.weights.writing import convert

__all__ = [
    "Layout",
    "Ledger",
    "Line",
    "Loaded",
    "Source",
    "build",
    "convert",
    "explain",
    "keep",
    "layouts",
    "load",
    "read",
    "save",
]
