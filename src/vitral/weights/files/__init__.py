"""Opening weight files of any origin: nothing in them runs, nothing is read unasked."""

from vitral.weights.files.archive import Archive
from vitral.weights.files.base import (
    Entry,
    MemoryFile,
    TensorFile,
    shown,
    shown_path,
    with_names,
)
from vitral.weights.files.checkpoint import PICKLE, open_legacy, open_zip
from vitral.weights.files.npz import SUFFIX, NpzFile
from vitral.weights.files.safetensors_file import SafetensorsFile
from vitral.weights.files.writing import write_npz, write_safetensors

__all__ = [
    "PICKLE",
    "SUFFIX",
    "Archive",
    "Entry",
    "MemoryFile",
    "NpzFile",
    "SafetensorsFile",
    "TensorFile",
    "open_legacy",
    "open_zip",
    "shown",
    "shown_path",
    "with_names",
    "write_npz",
    "write_safetensors",
]
