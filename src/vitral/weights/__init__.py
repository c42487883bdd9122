"""Floor 2: weights files to models and back. One foreign layout is one module."""

from vitral.weights.artefact import Artefact, Metadata, is_artefact, read_artefact
from vitral.weights.artefact_model import ExportedModel
from vitral.weights.explaining import explain
from vitral.weights.layout import Layout, layouts
from vitral.weights.ledger import Ledger, Line
from vitral.weights.loading import Loaded, build, load, read
from vitral.weights.native import keep, save
from vitral.weights.source import Source
from vitral.weights.writing import convert

__all__ = [
    "Artefact",
    "ExportedModel",
    "Layout",
    "Ledger",
    "Line",
    "Loaded",
    "Metadata",
    "Source",
    "build",
    "convert",
    "explain",
    "is_artefact",
    "keep",
    "layouts",
    "load",
    "read",
    "read_artefact",
    "save",
]
