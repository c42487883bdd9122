"""Floor 2: weights files to models and back. One foreign layout is one module."""

from vitral.weights.checkpoint_facts import Source
from vitral.weights.convert import convert
from vitral.weights.describe import explain
from vitral.weights.exported import (
    Artefact,
    ExportedModel,
    Metadata,
    is_artefact,
    read_artefact,
)
from vitral.weights.layouts import Layout, available_layouts, keep, save
from vitral.weights.ledger import Ledger, Line
from vitral.weights.load import Loaded, build, load, read

__all__ = [
    "Artefact",
    "ExportedModel",
    "Layout",
    "Ledger",
    "Line",
    "Loaded",
    "Metadata",
    "Source",
    "available_layouts",
    "build",
    "convert",
    "explain",
    "is_artefact",
    "keep",
    "load",
    "read",
    "read_artefact",
    "save",
]
