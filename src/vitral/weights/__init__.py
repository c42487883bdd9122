"""Load, describe, convert and save weights; one module per foreign layout."""

from vitral.weights.channels import ChannelInit
from vitral.weights.checkpoint_facts import WeightsSource
from vitral.weights.convert import convert
from vitral.weights.create import create
from vitral.weights.describe import explain
from vitral.weights.exported import (
    ExportedFile,
    ExportedModel,
    Metadata,
    is_exported,
    read_exported,
)
from vitral.weights.layouts import Layout, available_layouts, save, update_metadata
from vitral.weights.ledger import Ledger, LedgerLine
from vitral.weights.load import Loaded, build, load, read

__all__ = [
    "ChannelInit",
    "ExportedFile",
    "ExportedModel",
    "Layout",
    "Ledger",
    "LedgerLine",
    "Loaded",
    "Metadata",
    "WeightsSource",
    "available_layouts",
    "build",
    "convert",
    "create",
    "explain",
    "is_exported",
    "load",
    "read",
    "read_exported",
    "save",
    "update_metadata",
]
