"""Open and write weights files; nothing in them runs, and data are read on demand."""

from vitral.weights.files.open import open_file
from vitral.weights.files.tensor_file import TensorFile, TensorInfo, align, with_names
from vitral.weights.files.write import write_npz, write_safetensors

__all__ = [
    "TensorFile",
    "TensorInfo",
    "align",
    "open_file",
    "with_names",
    "write_npz",
    "write_safetensors",
]
