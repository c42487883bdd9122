"""Open and write weights files; nothing in them runs, and data are read on demand."""

from vitral.weights.files.npz import SUFFIX, NpzFile
from vitral.weights.files.open import open_file
from vitral.weights.files.safetensors import SafetensorsFile
from vitral.weights.files.tensor_file import (
    MemoryFile,
    TensorFile,
    TensorInfo,
    align,
    printable_name,
    printable_path,
    with_names,
)
from vitral.weights.files.torch_checkpoint import PICKLE, open_legacy, open_zip
from vitral.weights.files.write import write_npz, write_safetensors
from vitral.weights.files.zip_archive import Archive

__all__ = [
    "PICKLE",
    "SUFFIX",
    "Archive",
    "MemoryFile",
    "NpzFile",
    "SafetensorsFile",
    "TensorFile",
    "TensorInfo",
    "align",
    "open_file",
    "open_legacy",
    "open_zip",
    "printable_name",
    "printable_path",
    "with_names",
    "write_npz",
    "write_safetensors",
]
